"""`wsctl node fail`, `wsctl standby …` and what follows when the node is back, on fake nodes with fake files."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.commands.test_backup_archive import files
from tests.vaults import FakeVault
from wsctl.commands.failing import on_down, on_return
from wsctl.commands.watch import _watcher
from wsctl.context import App, Wiring
from wsctl.errors import EngineError, FilesError, NodeUnreachable, PartialFailure
from wsctl.model import Container
from wsctl.output import Output
from wsctl.standbys import Standby

STANDBY = INVENTORY.replace("  idle_after: 30m\n", "  idle_after: 30m\n  standby: 1\n")
SHARED = INVENTORY.replace("defaults:\n", "defaults:\n  storage: shared\n")


@pytest.fixture
def spared(desk: Desk) -> Desk:
    """alice runs on n1 with files, and has a standby copy that is as new as they are."""
    desk.inventory(STANDBY)
    desk.ok("place", "alice")
    desk.reached.trees.write("alice", "work")
    desk.ok("standby", "sync")
    desk.forget()
    return desk


def standby_of(desk: Desk, user: str = "alice") -> str:
    ((node,),) = desk.sql("SELECT node FROM standbys WHERE user = ?", user)
    return str(node)


def kinds(desk: Desk, *more: str) -> list[tuple[str, str | None, bool]]:
    return [(item["kind"], item["user"], item["repaired"]) for item in desk("reconcile", "-o", "json", *more).items]


# ------------------------------------------------------------------------------------------------- standby


def test_a_copy_is_made_shown_and_kept_up_to_date(desk: Desk) -> None:
    desk.inventory(STANDBY)
    desk.ok("place", "alice")
    desk.reached.trees.write("alice", "work")
    (missing,) = desk.ok("standby", "ls", "-o", "json").items
    assert (missing["user"], missing["node"], missing["age_s"]) == ("alice", None, None)
    (would,) = desk.ok("standby", "sync", "--dry-run", "-o", "json").items
    assert would["action"] == "would-sync"
    assert desk.sql("SELECT * FROM standbys") == []
    (done,) = desk.ok("standby", "sync", "-o", "json").items
    assert (done["action"], done["source"], done["bytes"]) == ("synced", desk.home("alice"), 4)
    assert done["node"] != done["source"]
    assert desk.reached.spares.complete_on[(done["node"], "alice")] == {"work": "work"}
    assert desk.ok("standby", "sync", "-o", "json").items == []
    desk.clock.advance(200)  # type: ignore[union-attr]
    shown = desk.ok("show", "alice", "-o", "json").json
    assert (shown["standby_node"], shown["standby_age_s"]) == (done["node"], 200.0)
    (listed,) = desk.ok("ls", "-o", "json").items
    assert (listed["standby_node"], listed["standby_age_s"]) == (done["node"], 200.0)
    assert desk.ok("standby", "sync", "-o", "json").items == []
    desk.clock.advance(100)  # type: ignore[union-attr]
    desk.reached.trees.write("alice", "more work")
    (again,) = desk.ok("standby", "sync", "-o", "json").items
    assert (again["action"], again["node"]) == ("synced", done["node"])
    (kept,) = desk.ok("standby", "ls", "-o", "json").items
    assert (kept["node"], kept["age_s"], kept["bytes"]) == (done["node"], 0.0, 9)
    assert "9 B" in desk.ok("standby", "ls").out


def test_who_is_stopped_since_the_last_copy_is_not_copied_again(spared: Desk) -> None:
    spared.ok("stop", "alice")
    spared.clock.advance(400)  # type: ignore[union-attr]
    assert [item["action"] for item in spared.ok("standby", "sync", "-o", "json").items] == ["synced"]
    spared.clock.advance(4000)  # type: ignore[union-attr]
    assert spared.ok("standby", "sync", "-o", "json").items == []
    assert [item["action"] for item in spared.ok("standby", "sync", "alice", "-o", "json").items] == ["synced"]


def exact(desk: Desk) -> None:
    """alice is stopped, and her copy is of after that."""
    desk.ok("stop", "alice")
    desk.clock.advance(400)  # type: ignore[union-attr]
    assert [item["action"] for item in desk.ok("standby", "sync", "-o", "json").items] == ["synced"]


def import_files(desk: Desk) -> None:
    """Somebody puts other files in the place of alice's."""
    files(desk).mkdir(parents=True, exist_ok=True)
    desk.ok("backup", "export", "alice", "--out", "a.tar", "-y")
    assert desk("restore", "import", "alice", "--from", "a.tar", "--confirm", "alice").code == 0


def test_files_that_were_put_in_the_place_of_a_stopped_users_are_copied(spared: Desk) -> None:
    exact(spared)
    spared.clock.advance(4000)  # type: ignore[union-attr]
    assert spared.ok("standby", "sync", "-o", "json").items == []
    before = spared.ok("show", "alice", "-o", "json").json["generation"]
    import_files(spared)
    row = spared.ok("audit", "alice", "-o", "json").items[-1]
    assert (row["action"], row["kind"], row["after"]["generation"]) == ("imported", "done", before + 1)
    spared.clock.advance(400)  # type: ignore[union-attr]
    assert [item["action"] for item in spared.ok("standby", "sync", "-o", "json").items] == ["synced"]
    spared.clock.advance(4000)  # type: ignore[union-attr]
    assert spared.ok("standby", "sync", "-o", "json").items == []


def test_a_copy_made_while_files_are_put_in_place_is_made_again(spared: Desk) -> None:
    """It began after the placement was claimed for them, and may have the files from before."""
    exact(spared)
    node = spared.fleet[spared.home("alice")]
    spare, real, looked = standby_of(spared), node.container, list[str]()

    def container(name: str) -> Container | None:
        looked.append(name)
        if len(looked) == 3:  # of the export, before the upload, before the files are swapped
            with closing(spared.store()) as store:
                placement = store.placement("alice")
                assert placement is not None
                at = spared.clock.now()
                assert store.finish_standby(Standby("alice", spare, placement.node, placement.generation, 0, at))
            spared.clock.advance(1)  # type: ignore[union-attr]
        return real(name)

    node.container = container  # type: ignore[method-assign]
    import_files(spared)
    del node.container
    assert len(looked) == 3
    spared.clock.advance(400)  # type: ignore[union-attr]
    assert [item["action"] for item in spared.ok("standby", "sync", "-o", "json").items] == ["synced"]


def test_an_exact_copy_is_not_too_old_however_old_it_is(spared: Desk) -> None:
    spared.inventory(STANDBY + "failover: {max_age: 10m}\n")
    exact(spared)
    dead = spared.home("alice")
    spared.clock.advance(3600)  # type: ignore[union-attr]
    spared.fleet.cut(dead)
    (item,) = spared.ok("node", "fail", dead, "--yes", "-o", "json").items
    assert (item["action"], item["state"], item["data_age_s"]) == ("failed-over", "stopped", 3600.0)


def test_an_interrupted_copying_leaves_the_older_copy(spared: Desk) -> None:
    spare = standby_of(spared)
    spared.reached.trees.write("alice", "newer")
    for operation in ("standby-begin", "standby-bring", "standby-complete"):
        spared.reached.trees.fail(operation, FilesError(spare, "no space left on device"))
        ran = spared("standby", "sync", "alice", "-o", "json")
        assert (ran.code, ran.error["code"]) == (8, "files")
        assert spared.reached.spares.complete_on[(spare, "alice")] == {"work": "work"}
        assert not spared.reached.trees.ways
    (row,) = spared.ok("standby", "ls", "-o", "json").items
    assert (row["node"], row["bytes"]) == (spare, 4)
    spared.reached.spares.replaced.add("alice")
    assert spared("standby", "sync", "alice").code == 8


def test_a_node_that_nobody_new_may_come_to_loses_its_copies_when_there_are_others(spared: Desk) -> None:
    first = standby_of(spared)
    spared.ok("node", "cordon", first)
    (done,) = spared.ok("standby", "sync", "alice", "-o", "json").items
    assert done["node"] not in (first, spared.home("alice"))
    assert standby_of(spared) == done["node"]
    assert list(spared.reached.spares.complete_on) == [(done["node"], "alice")]
    spared.ok("node", "cordon", done["node"])
    (stays,) = spared.ok("standby", "sync", "alice", "-o", "json").items
    assert stays["node"] == done["node"], "an old copy is of less use than a new one"


def test_removing_a_user_removes_their_copies(spared: Desk) -> None:
    spared.ok("rm", "alice", "--yes")
    assert not spared.reached.spares.complete_on
    assert spared.sql("SELECT * FROM standbys") == []


def test_a_copy_on_a_silent_node_goes_when_that_is_back(spared: Desk) -> None:
    spare = standby_of(spared)
    spared.fleet.cut(spare)
    spared.ok("rm", "alice", "--yes")
    assert spared.reached.spares.complete_on
    spared.fleet.heal(spare)
    assert ("left-copy", "alice", True) in kinds(spared)
    assert not spared.reached.spares.complete_on


def test_moving_to_the_node_of_the_copy_ends_the_copy(spared: Desk) -> None:
    spare = standby_of(spared)
    spared.ok("migrate-user", "alice", "--to", spare)
    assert ("left-copy", "alice", True) in kinds(spared)
    assert not spared.reached.spares.complete_on
    assert spared.reached.trees.live[(spare, "alice")] == {"work": "work"}
    (done,) = spared.ok("standby", "sync", "-o", "json").items
    assert done["node"] != spare


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["sync", "bob"], 4), (["sync", "alice"], 2), (["sync", "--bwlimit", "0"], 2), (["settle", "alice"], 4)],
)
def test_refusals_of_standby(alice: Desk, argv: list[str], code: int) -> None:
    ran = alice("standby", *argv)
    assert ran.code == code
    assert "hint:" in ran.err


def test_nobody_else_can_have_a_copy(spared: Desk) -> None:
    spare = standby_of(spared)
    for name in ("n1", "n2", "n3"):
        if name != spared.home("alice"):
            spared.fleet.cut(name)
    ran = spared("standby", "sync", "alice", "-o", "json")
    assert (ran.code, ran.error["code"]) == (8, "node")
    assert spared.reached.spares.complete_on == {(spare, "alice"): {"work": "work"}}


# ------------------------------------------------------------------------------------------------- fail


def test_users_go_on_with_their_standby_copies(spared: Desk) -> None:
    dead, spare = spared.home("alice"), standby_of(spared)
    spared.clock.advance(90)  # type: ignore[union-attr]
    spared.fleet.cut(dead)
    plan = spared.ok("node", "fail", dead, "--dry-run").out
    assert "~ promote  the standby copy of alice" in plan
    assert spared.home("alice") == dead
    assert spared.sql("SELECT * FROM node_marks") == []
    (done,) = spared.ok("node", "fail", dead, "--reason", "no power", "--yes", "-o", "json").items
    assert (done["user"], done["source"], done["target"], done["state"]) == ("alice", dead, spare, "running")
    assert (done["action"], done["data_age_s"], done["generation"]) == ("failed-over", 90.0, 2)
    assert spared.reached.trees.live[(spare, "alice")] == {"work": "work"}
    assert spared.fleet[spare].held("ws-u-alice").state == "running"
    marks = spared.sql("SELECT node, state, reason FROM node_marks")
    assert marks == [(dead, "down", "no power")]
    assert spared.sql("SELECT * FROM standbys") == []
    assert spared.ok("node", "fail", dead, "--yes", "-o", "json").items == []
    assert spared("start", "alice").code == 0


def test_a_person_is_asked_and_sees_how_old_the_files_are(spared: Desk) -> None:
    dead = spared.home("alice")
    spared.fleet.cut(dead)
    ran = spared("node", "fail", dead)
    assert ran.code == 5
    assert "files as of 2026-01-01 12:00:00 UTC" in ran.out + ran.err
    assert spared.home("alice") == dead
    done = spared("node", "fail", dead, tty=True, stdin="y\n")
    assert done.code == 0, done
    assert "0 s old" in done.out
    assert spared.home("alice") != dead


def test_a_node_that_answers_is_not_given_up(spared: Desk) -> None:
    home = spared.home("alice")
    ran = spared("node", "fail", home, "--yes", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "refused")
    assert "--force" in ran.error["hint"]
    assert spared.effects() == {}
    (done,) = spared.ok("node", "fail", home, "--yes", "--force", "-o", "json").items
    assert done["action"] == "failed-over"
    names = [one.spec.name for one in spared.fleet[home]._held.values() if one.state == "running"]
    assert names == [], "its containers were stopped first"


def test_who_has_no_copy_stays_down_unless_the_loss_is_accepted(desk: Desk) -> None:
    desk.ok("place", "alice")
    desk.reached.trees.write("alice", "work")
    dead = desk.home("alice")
    desk.fleet.cut(dead)
    ran = desk("node", "fail", dead, "--yes", "-o", "json")
    (item,) = ran.items
    assert (ran.code, item["action"], item["error"]["code"]) == (9, "left-down", "no-copy")
    assert ran.error["details"] == {"left_down": ["alice"], "failed": []}
    assert desk.home("alice") == dead
    found = [i for i in desk("reconcile", "-o", "json").items if i["kind"] == "failed-node"]
    assert [(i["user"], i["repaired"]) for i in found] == [("alice", False)]
    ran = desk("node", "fail", dead, "--yes", "--accept-data-loss", "-o", "json")
    (item,) = ran.items
    assert (ran.code, item["action"]) == (0, "failed-over")
    assert item["warnings"] == [f"alice starts empty: their files are on {dead}"]
    assert desk.home("alice") != dead
    # Back: what they had there is kept, and told.
    desk.fleet.heal(dead)
    told = desk("reconcile", "-o", "json")
    assert told.code == 9
    after = desk("reconcile", "-o", "json").items
    assert [(i["kind"], i["node"], i["repaired"]) for i in after] == [("conflict", dead, False)]
    assert "who went on without them" in after[0]["detail"]


def test_of_who_had_no_files_there_is_nothing_to_decide(desk: Desk) -> None:
    desk.ok("place", "alice")
    dead = desk.home("alice")
    desk.fleet.cut(dead)
    assert desk("node", "fail", dead, "--yes", "--accept-data-loss").code == 0
    desk.fleet.heal(dead)
    assert ("returned", None, True) in kinds(desk)
    assert kinds(desk) == []
    assert desk.sql("SELECT state, newer_files FROM left_files") == [("kept", 0)]


@pytest.mark.parametrize("user", ["typo", "bob"])
def test_a_user_who_does_not_live_there_is_refused_before_anything_is_changed(spared: Desk, user: str) -> None:
    spared.ok("place", "bob")
    dead = spared.home("alice")
    if spared.home("bob") == dead:
        spared.ok("migrate-user", "bob", "--to", next(name for name in ("n1", "n2", "n3") if name != dead))
    spared.fleet.cut(dead)
    for how in ("--yes", "--dry-run"):
        ran = spared("node", "fail", dead, "--user", "alice", "--user", user, how, "-o", "json")
        assert (ran.code, ran.error["code"]) == (4, "not-found")
        assert user in ran.error["message"]
    assert spared.sql("SELECT * FROM node_marks") == []
    assert spared.home("alice") == dead
    for action in (["failed-over"], []):
        items = spared.ok("node", "fail", dead, "--user", "alice", "--yes", "-o", "json").items
        assert [item["action"] for item in items] == action, "safe to repeat"


def test_shared_storage_needs_no_copy(desk: Desk) -> None:
    desk.inventory(SHARED)
    desk.ok("place", "alice", "bob", "carol")
    desk.ok("stop", "bob")
    for user in ("alice", "bob", "carol"):
        desk.ok("migrate-user", user, "--to", "n1")
    desk.fleet.cut("n1")
    items = desk.ok("node", "fail", "n1", "--yes", "-o", "json").items
    assert {i["user"]: (i["state"], i["data_as_of"]) for i in items} == {
        "alice": ("running", None), "bob": ("stopped", None), "carol": ("running", None),
    }  # fmt: skip
    assert [i["user"] for i in items] == ["alice", "carol", "bob"], "those who were running come first"
    assert "n1" not in {desk.home(user) for user in ("alice", "bob", "carol")}
    desk.fleet.heal("n1")
    assert ("returned", None, True) in kinds(desk)
    assert kinds(desk) == []
    assert desk.sql("SELECT * FROM left_files") == []


def test_too_old_a_copy_counts_as_none(spared: Desk) -> None:
    dead = spared.home("alice")
    spared.inventory(STANDBY + "failover: {max_age: 10m}\n")
    spared.clock.advance(3600)  # type: ignore[union-attr]
    spared.fleet.cut(dead)
    (item,) = spared("node", "fail", dead, "--yes", "-o", "json").items
    assert (item["action"], "1h old" in item["error"]["message"]) == ("left-down", True)
    (item,) = spared.ok("node", "fail", dead, "--yes", "--accept-data-loss", "-o", "json").items
    assert (item["action"], item["data_age_s"]) == ("failed-over", 3600.0)


def test_a_request_id_fails_over_once(spared: Desk) -> None:
    dead = spared.home("alice")
    spared.fleet.cut(dead)
    first = spared.ok("node", "fail", dead, "--yes", "--request-id", "r1", "-o", "json").items
    assert spared.ok("node", "fail", dead, "--yes", "--request-id", "r1", "-o", "json").items == first
    assert len(first) == 1


def test_a_full_node_leaves_them_down_and_says_so(spared: Desk) -> None:
    dead, spare = spared.home("alice"), standby_of(spared)
    spared.sql("UPDATE node_usage SET workspaces = 10 WHERE node = ?", spare)
    if not spared.sql("SELECT 1 FROM node_usage WHERE node = ?", spare):
        spared.sql("INSERT INTO node_usage VALUES (?, ?, 10, 0, 0, 0, NULL, NULL, 0)", "studio", spare)
    spared.fleet.cut(dead)
    (item,) = spared("node", "fail", dead, "--yes", "--accept-data-loss", "-o", "json").items
    assert (item["action"], item["error"]["code"]) == ("failed", "unschedulable")
    assert spare in item["error"]["message"]
    assert spared.home("alice") == dead, "they don't start empty while there is a copy"
    assert (spare, "alice") in spared.reached.spares.complete_on


# ------------------------------------------------------------------------------------------------- back


def failed_over(desk: Desk) -> str:
    dead = desk.home("alice")
    desk.fleet.cut(dead)
    desk.ok("node", "fail", dead, "--yes")
    desk.fleet.heal(dead)
    desk.forget()
    return dead


def test_a_node_that_is_back_is_fenced_then_cordoned(spared: Desk) -> None:
    dead = failed_over(spared)
    assert spared.fleet[dead].held("ws-u-alice").state == "running", "it was only cut off"
    found = kinds(spared)
    assert ("wrong-node", "alice", True) in found
    assert ("returned", None, True) in found
    assert [one.spec.name[:5] for one in spared.fleet[dead]._held.values()] == ["ws-q-"]
    assert [one.state for one in spared.fleet[dead]._held.values()] == ["exited"]
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("cordoned",)]
    assert ("n" + dead[1:], "alice-failed-1") in spared.reached.trees.kept
    assert kinds(spared) == [], "nothing there is newer than the copy"
    assert spared.sql("SELECT state FROM left_files") == [("kept",)]
    spared.clock.advance(90_000)  # type: ignore[union-attr]
    assert kinds(spared) == [("left-copy", "alice", True)]
    assert not spared.reached.trees.kept
    assert spared.sql("SELECT * FROM left_files") == []


def test_who_is_asked_about_one_user_lets_no_node_back_in(spared: Desk) -> None:
    dead = failed_over(spared)
    ran = spared("reconcile", "--user", "nobody", "-o", "json")
    (item,) = ran.items
    assert (ran.code, item["kind"], item["node"], item["repaired"]) == (9, "returned", dead, False)
    assert item["fix"] == f"wsctl node uncordon {dead}"
    assert spared.fleet[dead].held("ws-u-alice").state == "running"
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("down",)]
    assert ("returned", None, True) in kinds(spared)


def test_newer_files_are_kept_and_told_until_somebody_settles_it(spared: Desk) -> None:
    spared.reached.trees.write("alice", "newer than the copy")
    dead = spared.home("alice")
    spared.reached.trees.newest.clear()
    failed_over(spared)
    spared("reconcile")
    for _ in range(2):
        ran = spared("reconcile", "-o", "json")
        (item,) = ran.items
        assert (ran.code, item["kind"], item["node"], item["repaired"]) == (9, "conflict", dead, False)
        assert "1 file (19 B) of alice that is newer" in item["detail"]
        assert ".wsctl-kept/alice-failed-1" in item["fix"]
    spared.clock.advance(1_000_000)  # type: ignore[union-attr]
    spared("reconcile")
    assert spared.reached.trees.kept[(dead, "alice-failed-1")] == {"work": "newer than the copy"}
    assert spared.ok("standby", "settle", "alice", "--dry-run", "-o", "json").items[0]["action"] == "would-settle"
    assert spared("standby", "settle", "alice").code == 5
    rows = spared.sql("SELECT COUNT(*) FROM audit")
    (settled,) = spared.ok("standby", "settle", "alice", "--yes", "-o", "json").items
    assert spared.sql("SELECT COUNT(*) FROM audit") == [(rows[0][0] + 2,)]
    intent, done = spared.ok("audit", "alice", "-o", "json").items[-2:]
    assert (intent["verb"], intent["action"], done["kind"]) == ("standby settle", "settled", "done")
    assert f"{dead}: .wsctl-kept/alice-failed-1" in intent["plan"]
    assert (settled["node"], settled["action"]) == (dead, "settled")
    assert kinds(spared) == []
    assert spared.reached.trees.kept
    spared.clock.advance(90_000)  # type: ignore[union-attr]
    assert kinds(spared) == [("left-copy", "alice", True)]
    assert not spared.reached.trees.kept


def test_uncordon_fences_first_and_refuses_if_it_cannot(spared: Desk) -> None:
    dead = spared.home("alice")
    spared.fleet.cut(dead)
    spared.ok("node", "fail", dead, "--yes")
    ran = spared("node", "uncordon", dead, "-o", "json")
    assert (ran.code, ran.error["code"]) == (8, "node-unreachable")
    assert spared.sql("SELECT state FROM node_marks") == [("down",)]
    spared.fleet.heal(dead)
    spared.fleet[dead].fail("stop", FilesError(dead, "device busy"))
    ran = spared("node", "uncordon", dead, "-o", "json")
    assert ran.code == 9
    assert "stays marked down" in ran.error["message"]
    assert spared.sql("SELECT state FROM node_marks") == [("down",)]
    ran = spared("node", "uncordon", dead, "-o", "json")
    assert (ran.code, ran.items[0]["state"]) == (0, "ready")
    assert [one.spec.name[:5] for one in spared.fleet[dead]._held.values()] == ["ws-q-"]


def test_one_dead_node_does_not_keep_the_others_out(spared: Desk) -> None:
    dead = spared.home("alice")
    others = [name for name in ("n1", "n2", "n3") if name != dead]
    spared.ok("node", "cordon", *others)
    spared.fleet.cut(dead)
    spared("node", "fail", dead, "--yes")
    argv = ["node", "uncordon", dead, *others, "--request-id", "r1", "-o", "json"]
    ran = spared(*argv)
    assert ran.code == 9
    found = {item["name"]: (item["state"], item["action"]) for item in ran.items}
    assert found == {dead: ("down", "failed"), **dict.fromkeys(others, ("ready", "uncordoned"))}
    assert ran.error["details"] == {"failed": [dead]}
    assert next(item for item in ran.items if item["name"] == dead)["error"]["code"] == "node-unreachable"
    spared.fleet.heal(dead)
    again = spared(*argv)
    assert again.code == 0, "what failed is tried again"
    assert {item["name"]: item["state"] for item in again.items} == dict.fromkeys((dead, *others), "ready")
    spared.ok("node", "cordon", dead)
    assert spared(*argv).items == again.items
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("cordoned",)], "it was done once"


def test_what_uncordon_puts_aside_is_shown_and_recorded(spared: Desk) -> None:
    dead = failed_over(spared)
    plan = spared.ok("node", "uncordon", dead, "--dry-run").out
    assert "- keep     ws-u-alice on" in plan
    assert f"~ mark     {dead} as ready" in plan
    assert spared.effects() == {}
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("down",)]
    assert spared("node", "uncordon", dead, "--request-id", "r7").code == 0
    rows = spared.ok("audit", "--request-id", "r7", "-o", "json").items
    assert {(row["target"], row["action"]) for row in rows} == {("alice", "fenced"), (dead, "uncordoned")}


def test_cordon_lets_no_node_in_that_is_not_fenced(spared: Desk) -> None:
    dead = spared.home("alice")
    spared.fleet.cut(dead)
    spared.ok("node", "fail", dead, "--yes")
    assert spared("node", "cordon", dead).code == 8
    assert spared.sql("SELECT state FROM node_marks") == [("down",)]
    spared.fleet.heal(dead)
    assert spared("node", "cordon", dead).code == 0
    assert [one.spec.name[:5] for one in spared.fleet[dead]._held.values()] == ["ws-q-"]


def test_who_stayed_down_is_at_home_when_the_node_is_back(desk: Desk) -> None:
    desk.ok("place", "alice")
    dead = desk.home("alice")
    desk.fleet.cut(dead)
    desk("node", "fail", dead, "--yes")
    desk.fleet[dead].power_cycle()
    desk.fleet.heal(dead)
    assert kinds(desk) == [("returned", None, True)]
    assert kinds(desk) == [("not-running", "alice", True)]
    assert desk.home("alice") == dead
    assert desk.fleet[dead].held("ws-u-alice").state == "running"


# ------------------------------------------------------------------------------------------------- the watch loop


def watching(desk: Desk) -> App:
    return App(
        Output(), desk.folder / "inventory.yaml", Wiring(fleet=desk.reached, gateways=desk.edges, clock=desk.clock)
    )


def test_what_the_watch_loop_calls(spared: Desk) -> None:
    dead = spared.home("alice")
    app = watching(spared)
    assert on_down(app, dead, "no answer") == f"failover.policy is manual: wsctl node fail {dead}"
    assert spared.sql("SELECT * FROM node_marks") == []
    spared.inventory(STANDBY + "failover: {policy: automatic}\n")
    spared.ok("place", "bob", "carol")
    spared.ok("migrate-user", "bob", "--to", dead)
    spared.fleet.cut(dead)
    app = watching(spared)
    said = on_down(app, dead, "no answer for 12 s")
    assert said == f"1 users of {dead} went on elsewhere, 1 stay down for want of a copy"
    assert spared.sql("SELECT node, state, reason FROM node_marks") == [(dead, "down", "no answer for 12 s")]
    assert on_down(app, dead, "").startswith("0 users")
    with pytest.raises(NodeUnreachable):
        on_return(app, dead)
    spared.fleet.heal(dead)
    assert on_return(app, dead) == (
        f"{dead} is back: stale copies of 1 users put aside, cordoned; wsctl node uncordon {dead}"
    )
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("cordoned",)]
    assert spared.reached.opened == spared.reached.closed


def test_a_failover_under_way_is_not_undone_by_the_watch_loop(spared: Desk) -> None:
    """The node answers, and is given up all the same: nobody was taken over yet, so nothing there is stale."""
    home, said = spared.home("alice"), list[str]()
    promote = spared.reached.spares.promote

    def promoting(*where: str) -> str | None:
        said.append(on_return(watching(spared), home))
        return promote(*where)

    spared.reached.spares.promote = promoting  # type: ignore[method-assign]
    (done,) = spared.ok("node", "fail", home, "--force", "--yes", "-o", "json").items
    assert (done["action"], said) == ("failed-over", [""])
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", home) == [("down",)]
    assert "cordoned" in on_return(watching(spared), home)


def test_who_gives_a_node_up_while_another_does_is_told(spared: Desk) -> None:
    home = spared.home("alice")
    spared.fleet.cut(home)
    spared.hold(f"failover:{home}", command="watch")
    ran = spared("node", "fail", home, "--yes", "--wait", "0", "-o", "json")
    assert (ran.code, ran.error["code"]) == (6, "busy")
    assert spared.sql("SELECT * FROM node_marks") == []


def test_what_an_operator_made_of_the_mark_meanwhile_stays(spared: Desk) -> None:
    dead = failed_over(spared)
    engine = spared.fleet[dead]
    stop = engine.stop

    def stopping(name: str, grace_s: float = 10.0) -> None:
        stop(name, grace_s)
        spared.sql("UPDATE node_marks SET state = 'ready', reason = '' WHERE node = ?", dead)

    engine.stop = stopping  # type: ignore[method-assign]
    assert on_return(watching(spared), dead) == f"{dead} is back: stale copies of 1 users put aside"
    assert spared.sql("SELECT state FROM node_marks WHERE node = ?", dead) == [("ready",)]


def test_who_decides_is_the_policy(spared: Desk) -> None:
    with closing(watching(spared)) as app:
        assert _watcher(app, "w", lambda event: None).on_down is None
    spared.inventory(STANDBY + "failover: {policy: automatic}\n")
    with closing(watching(spared)) as app:
        watcher = _watcher(app, "w", lambda event: None)
        assert watcher.on_down is not None
        assert watcher.on_return is not None


def test_the_watch_loop_tries_again_what_failed(spared: Desk) -> None:
    spared.inventory(STANDBY + "failover: {policy: automatic}\n")
    dead, spare = spared.home("alice"), standby_of(spared)
    spared.fleet.cut(dead)
    spared.reached.trees.fail("promote", FilesError(spare, "read-only file system"))
    with pytest.raises(PartialFailure, match=r"1 failed: .*read-only file system"):
        on_down(watching(spared), dead, "no answer")
    assert on_down(watching(spared), dead, "no answer").startswith("1 users")


# ------------------------------------------------------------------------------------------------- from the backup

BACKUP = "backup: {repository: 's3:https://s3.example.com/studio'}\n"


@pytest.fixture
def backed_up(desk: Desk) -> Desk:
    """alice runs and has files in the repository of backups, and no standby copy."""
    desk.patch.setenv("WSCTL_BACKUP_PASSWORD", "secret words")
    desk.reached.vault = FakeVault(desk.folder.parent / "vault", desk.clock.now)
    desk.inventory(INVENTORY + BACKUP)
    desk.ok("place", "alice")
    folder = files(desk)
    folder.mkdir(parents=True)
    (folder / "notes").write_text("of last night")
    desk.ok("backup", "init")
    desk.ok("backup", "run")
    (folder / "notes").write_text("since then")
    return desk


def test_a_backup_takes_the_place_of_a_copy_if_the_loss_is_accepted(backed_up: Desk) -> None:
    dead = backed_up.home("alice")
    backed_up.fleet.cut(dead)
    assert backed_up("node", "fail", dead, "--yes").code == 9, "what is newer than the backup would be lost"
    ran = backed_up("node", "fail", dead, "--yes", "--accept-data-loss", "-o", "json")
    (item,) = ran.items
    assert (ran.code, item["action"]) == (0, "failed-over"), ran
    assert "has the files of the backup of" in item["warnings"][0]
    assert item["data_as_of"].startswith("2026-01-01T12:00:00")
    assert backed_up.home("alice") != dead
    assert (files(backed_up) / "notes").read_text() == "of last night"


def test_a_repository_that_does_not_answer_starts_nobody_empty(backed_up: Desk) -> None:
    dead = backed_up.home("alice")
    backed_up.fleet.cut(dead)
    assert backed_up.reached.vault is not None
    backed_up.reached.vault.exists = False
    ran = backed_up("node", "fail", dead, "--yes", "--accept-data-loss", "-o", "json")
    (item,) = ran.items
    assert (ran.code, item["action"], item["error"]["code"]) == (9, "left-down", "no-copy")
    assert "whether there is a backup isn't known" in item["error"]["message"]
    assert backed_up.home("alice") == dead


def test_reconcile_finishes_what_was_cut_off_from_the_backup_too(backed_up: Desk) -> None:
    backed_up.inventory(INVENTORY + BACKUP + "failover: {accept_data_loss: accept}\n")
    dead = backed_up.home("alice")
    backed_up.fleet.cut(dead)
    for name in {"n1", "n2", "n3"} - {dead}:
        backed_up.fleet[name].fail("create", EngineError(name, "no"))
    assert backed_up("node", "fail", dead, "--yes").code == 9
    assert backed_up("reconcile", "--yes").code in (0, 9)
    assert backed_up("reconcile", "--yes").code in (0, 9)
    assert (files(backed_up) / "notes").read_text() == "of last night"
    assert backed_up.ok("show", "alice", "-o", "json").json["state"] == "running"
