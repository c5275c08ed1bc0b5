"""`wsctl backup init|run|ls|verify|prune` and `wsctl restore USER`, on real folders and a repository in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.commands.conftest import INVENTORY, Desk
from tests.commands.test_backup_archive import files, tree
from tests.vaults import FakeVault
from wsctl.errors import EngineError
from wsctl.snapshots import Kind, Snapshot

BACKUP = "backup: {repository: 's3:https://s3.example.com/studio', keep: {last: 2, daily: 0, weekly: 0, monthly: 0}}\n"


@pytest.fixture
def vault(desk: Desk) -> FakeVault:
    desk.inventory(INVENTORY + BACKUP)
    desk.patch.setenv("WSCTL_BACKUP_PASSWORD", "secret words")
    desk.reached.vault = FakeVault(desk.folder.parent / "vault", desk.clock.now)
    return desk.reached.vault


@pytest.fixture
def full(vault: FakeVault, alice: Desk) -> Desk:
    """alice runs and has files, and there is a repository."""
    write(alice, "first")
    alice.ok("backup", "init")
    return alice


def write(desk: Desk, words: str, user: str = "alice") -> None:
    folder = files(desk, user)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes").write_text(words)


def later(desk: Desk, seconds: float = 60) -> None:
    desk.clock.advance(seconds)  # type: ignore[union-attr]


def kinds(vault: FakeVault) -> list[str]:
    return [call[2] for call in vault.calls if call[0] == "take"]


def pauses(desk: Desk) -> list[str]:
    return [call[0] for engine in desk.fleet.engines.values() for call in engine.calls if "pause" in call[0]]


# ---- init


def test_init_is_safe_to_repeat(vault: FakeVault, desk: Desk) -> None:
    assert desk.ok("backup", "init", "-o", "json").items == [{"node": "n1", "action": "created", "error": None}]
    assert desk.ok("backup", "init", "-o", "json").items[0]["action"] == "unchanged"


def test_without_a_repository_or_its_password_nothing_is_asked(desk: Desk) -> None:
    result = desk("backup", "run", "-o", "json")
    assert (result.code, "backup.repository" in result.error["message"]) == (3, True)
    desk.inventory(INVENTORY + BACKUP)
    result = desk("backup", "run", "-o", "json")
    assert result.code == 3
    assert "WSCTL_BACKUP_PASSWORD" in result.error["hint"]
    assert desk.reached.opened == 0


def test_before_init_it_says_so(vault: FakeVault, alice: Desk) -> None:
    write(alice, "x")
    result = alice("backup", "run", "-o", "json")
    assert (result.code, result.error["code"], result.error["hint"]) == (8, "repository-missing", "wsctl backup init")
    assert alice("backup", "ls").code == 8


# ---- run


def test_who_works_is_copied_twice_and_paused_for_the_second(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    (item,) = full.ok("backup", "run", "-o", "json").items
    assert (item["user"], item["node"], item["kind"], item["action"]) == (
        "alice", full.home("alice"), "consistent", "backed-up",
    )  # fmt: skip
    assert kinds(vault) == ["first-pass", "consistent"]
    assert pauses(full) == ["pause", "unpause"]
    (left,) = vault.held.values()
    assert left.kind is Kind.CONSISTENT, "the first pass is forgotten"
    rows = [(row["kind"], row["verb"], row["action"]) for row in full.ok("audit", "alice", "-o", "json").items]
    assert rows[-2:] == [("intent", "backup run", "backed-up"), ("done", "backup run", "backed-up")]


def test_who_is_stopped_is_copied_once_and_builds_on_the_last_one(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    full.ok("backup", "run")
    full.ok("stop", "alice")
    full.forget()
    later(full)
    full.ok("backup", "run", "alice")
    assert kinds(vault) == ["first-pass", "consistent", "consistent"]
    assert vault.calls[-1][3] in {one.id for one in vault.held.values()}
    assert pauses(full) == []


def test_in_a_directory_nothing_builds_on_what_another_node_has(full: Desk) -> None:
    vault, home = full.reached.vault, full.home("alice")
    assert vault is not None
    full.inventory(INVENTORY + BACKUP.replace("s3:https://s3.example.com/studio", "/mnt/backup"))
    full.ok("stop", "alice")
    for _ in range(2):
        full.ok("backup", "run")
    built = [call[3] for call in vault.calls if call[0] == "take"]
    assert built == ["", next(iter(vault.held))], "the second builds on the first"
    other = next(name for name in ("n1", "n2") if name != home)
    before = files(full)
    full.sql("UPDATE placements SET node = ?", other)
    files(full).parent.mkdir(exist_ok=True)
    before.rename(files(full))
    full.ok("backup", "run")
    assert [call[3] for call in vault.calls if call[0] == "take"] == [*built, ""]


def test_live_pauses_nobody_and_says_so(full: Desk) -> None:
    (item,) = full.ok("backup", "run", "--live", "-o", "json").items
    assert (item["kind"], pauses(full)) == ("live", [])
    full.ok("stop", "alice")
    (item,) = full.ok("backup", "run", "--live", "-o", "json").items
    assert item["kind"] == "consistent"


def test_who_works_in_a_container_without_a_placement_has_no_consistent_snapshot(full: Desk) -> None:
    home = full.home("alice")
    full.sql("DELETE FROM placements")
    store = full.store()
    store.remember_home("alice", home)
    store.close()
    folder = full.folder.parent / "nodes" / home / "alice"
    assert (folder / "notes").exists()
    (item,) = full.ok("backup", "run", "-o", "json").items
    assert (item["node"], item["kind"], pauses(full)) == (home, "live", [])


def test_it_goes_on_when_the_copy_fails(full: Desk) -> None:
    node = full.fleet[full.home("alice")]
    node.fail("unpause", EngineError(node.name, "busy"))
    files(full).rename(files(full).with_name("elsewhere"))
    result = full("backup", "run", "-o", "json")
    assert (result.code, result.items[0]["action"]) == (9, "failed")
    assert node.held("ws-u-alice").state == "running"


def test_one_who_fails_stops_nobody(full: Desk) -> None:
    full.ok("place", "bob")
    result = full("backup", "run", "-o", "json")
    assert result.code == 9
    assert {item["user"]: item["action"] for item in result.items} == {"alice": "backed-up", "bob": "failed"}


@pytest.fixture
def shrunk(full: Desk) -> Desk:
    """alice and bob have backups; since then alice's node was taken out of the inventory."""
    full.ok("place", "bob")
    write(full, "bob's", "bob")
    gone = full.home("alice")
    assert full.home("bob") != gone
    full.ok("backup", "run")
    later(full)
    lines = (INVENTORY + BACKUP).splitlines(keepends=True)
    full.inventory("".join(line for line in lines if not line.startswith(f"  {gone}:")))
    return full


@pytest.mark.parametrize(("more", "done"), [([], "backed-up"), (["--dry-run"], "would-back-up")])
def test_a_node_that_was_taken_out_of_the_inventory_stops_nobody_else(shrunk: Desk, more: list[str], done: str) -> None:
    result = shrunk("backup", "run", "-o", "json", *more)
    assert result.code == 9, result
    alice, bob = result.items
    assert (bob["action"], bob["error"]) == (done, None)
    assert (alice["action"], "not in the inventory" in alice["error"]["message"]) == ("failed", True)


def test_one_who_cant_be_verified_costs_the_others_no_verdict(shrunk: Desk) -> None:
    result = shrunk("backup", "verify", "alice", "nobody", "bob", "-o", "json")
    assert result.code == 9, result
    assert [item["verdict"] for item in result.items] == ["restorable", "failed", "restorable"], "alice on another node"
    assert "no snapshot" in result.items[1]["detail"][0]


def test_what_isnt_kept_is_forgotten_and_a_lock_is_waited_for(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    for _ in range(4):
        later(full)
        full.ok("backup", "run")
    assert len(vault.held) == 2
    later(full)
    vault.locked = 3
    full.ok("backup", "run")
    assert len(vault.held) == 2
    assert ("unlock", full.home("alice")) in vault.calls
    vault.locked = 99
    later(full)
    result = full("backup", "run")
    assert result.code == 0
    assert "weren't forgotten" in result.err
    assert len(vault.held) == 4, "the new one, and its first pass"


def test_files_that_cant_be_read_are_named(full: Desk) -> None:
    assert full.reached.vault is not None
    full.reached.vault.unread = "open /srv/x: input/output error"
    result = full("backup", "run")
    assert result.code == 0
    assert "input/output error" in result.err
    assert full.ok("backup", "ls", "alice", "-o", "json").items[0]["complete"] is False


def test_the_same_request_is_done_once(full: Desk) -> None:
    assert full.reached.vault is not None
    first = full.ok("backup", "run", "--request-id", "night-1", "-o", "json").json
    assert full.ok("backup", "run", "--request-id", "night-1", "-o", "json").json == first
    assert len(kinds(full.reached.vault)) == 2


def test_a_rehearsal_asks_no_node(full: Desk) -> None:
    assert full.reached.vault is not None
    items = full.ok("backup", "run", "-n", "-o", "json").items
    assert [(item["user"], item["action"]) for item in items] == [("alice", "would-back-up")]
    assert full.reached.vault.calls == []


def test_somebody_elses_lease_is_respected(full: Desk) -> None:
    full.hold("user:alice")
    result = full("backup", "run", "--wait", "0", "-o", "json")
    assert (result.code, result.items[0]["error"]["code"]) == (9, "busy")
    assert pauses(full) == []


# ---- ls


def test_ls_begins_with_who_has_none(full: Desk) -> None:
    full.ok("backup", "run")
    full.ok("place", "bob")
    none, newest = full.ok("backup", "ls", "-o", "json").items
    assert (none["user"], none["snapshot"], none["snapshots"]) == ("bob", None, 0)
    assert (newest["user"], newest["kind"], newest["snapshots"]) == ("alice", "consistent", 1)
    assert len(full.ok("backup", "ls", "--all", "-o", "json").items) == 1
    assert full.ok("backup", "ls", "carol", "-o", "json").items == []


def test_another_node_answers_when_one_is_gone(full: Desk) -> None:
    full.ok("backup", "run")
    full.fleet.cut("n1")
    assert len(full("backup", "ls", "-o", "json").items) == 1
    result = full("backup", "ls")
    assert result.code == 0
    assert "not asked: n1" in result.err


# ---- verify


def test_verify_restores_beside_and_leaves_nothing(full: Desk) -> None:
    full.ok("backup", "run")
    write(full, "since then")
    before = tree(files(full))
    (item,) = full.ok("backup", "verify", "-o", "json").items
    assert (item["verdict"], item["node"], item["detail"]) == ("restorable", full.home("alice"), [])
    assert tree(files(full)) == before
    assert list(files(full).parent.glob(".wsctl-incoming/*")) == []
    assert "stop" not in str(full.effects())


def test_verify_names_what_cant_be_restored(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    full.ok("backup", "run")
    ((id_, _),) = vault.held.items()
    (vault.folder / id_ / "notes").unlink()
    (vault.folder / id_).rmdir()
    vault.held["0" * 64] = Snapshot("0" * 64, "bob", "n1", datetime(2026, 1, 1, tzinfo=UTC), Kind.CONSISTENT)
    result = full("backup", "verify", "-o", "json")
    assert result.code == 9, result
    assert {item["verdict"] for item in result.items} == {"failed"}
    assert full("backup", "verify", "nobody").code == 4


# ---- restore


def test_what_a_restore_replaces_is_kept(full: Desk) -> None:
    full.ok("backup", "run")
    saved = tree(files(full))
    write(full, "broken")
    broken = tree(files(full))
    running = full("restore", "alice", "--confirm", "alice", "-o", "json")
    assert (running.code, running.error["hint"].startswith("wsctl stop alice")) == (5, True)
    full.ok("stop", "alice")
    for more in ([], ["-y"]):
        result = full("restore", "alice", "-o", "json", *more)
        assert (result.code, result.error["code"]) == (5, "confirmation-required")
        assert result.error["hint"] == "wsctl restore alice --confirm alice"
    assert full("restore", "alice", "--confirm", "bob").code == 5
    assert tree(files(full)) == broken
    done = full("restore", "alice", stdin="alice\n")
    assert done.code == 0, done
    assert tree(files(full)) == saved
    (kept,) = files(full).parent.glob(".wsctl-kept/*")
    assert tree(kept) == broken
    assert full.ok("start", "alice", "-o", "json").json["state"] == "running"
    row = full.ok("audit", "alice", "-o", "json").items[-3]
    assert (row["verb"], row["action"], str(kept) in row["detail"]) == ("restore", "restored", True)


def test_at_a_time_and_by_id(full: Desk) -> None:
    clock = full.clock
    for words in ("one", "two"):
        write(full, words)
        full.ok("backup", "run")
        later(full, 3600)
    full.ok("stop", "alice")
    older, newer = (one["snapshot"] for one in reversed(full.ok("backup", "ls", "alice", "-o", "json").items))
    for at in ("90m ago", f"{clock.now():%Y-%m-%d}T12:30", f"{clock.now():%Y-%m-%d}T12:30Z"):
        assert full.ok("restore", "alice", "-n", "--at", at, "-o", "json").json["snapshot"] == older
    assert full.ok("restore", "alice", "-n", "-o", "json").json["snapshot"] == newer
    assert full.ok("restore", "alice", "-n", "--snapshot", older[:8], "-o", "json").json["snapshot"] == older
    assert full("restore", "alice", "--at", "2020-01-01").code == 4
    assert full("restore", "alice", "--snapshot", "zz").code == 4
    assert full("restore", "alice", "--at", "yesterday").code == 2
    full("restore", "alice", "--at", "90m ago", "--confirm", "alice")
    assert (files(full) / "notes").read_text() == "one"


def test_a_user_who_has_nothing_gets_a_home(full: Desk) -> None:
    full.ok("backup", "run")
    saved = tree(files(full))
    full.ok("rm", "alice", "--purge-data", "--confirm", "alice")
    done = full("restore", "alice", "--to", "n3", "-o", "json")
    assert done.code == 0, done
    item = done.json
    assert (item["node"], item["action"], item["kept"]) == ("n3", "restored", None)
    assert full.reached.root is not None
    assert tree(full.reached.root / "n3" / "alice") == saved
    assert full.ok("place", "alice", "-o", "json").json["node"] == "n3"


def test_a_user_may_not_have_two(full: Desk) -> None:
    full.ok("backup", "run")
    full.ok("stop", "alice")
    other = next(name for name in ("n1", "n2") if name != full.home("alice"))
    result = full("restore", "alice", "--to", other, "-o", "json")
    assert (result.code, "would make two" in result.error["message"]) == (5, True)
    assert full("restore", "alice", "--to", "n9").code == 4


def test_no_room_replaces_nothing(full: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import vaults
    from wsctl.snapshots import Extent

    full.ok("backup", "run")
    full.ok("stop", "alice")
    before = tree(files(full))
    monkeypatch.setattr(vaults.FakeRepository, "extent", lambda self, snapshot: Extent(1 << 60, 3))
    result = full("restore", "alice", "--confirm", "alice", "-o", "json")
    assert (result.code, "no room" in result.error["message"]) == (5, True)
    assert tree(files(full)) == before


# ---- prune


def test_prune_forgets_and_frees(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    for hour in range(4):
        full.reached.vault.at("n1", files(full).parent).take("alice", None, Kind.CONSISTENT)  # type: ignore[union-attr]
        later(full, 60 * hour + 1)
    assert full.ok("backup", "prune", "-n", "-o", "json").json["forgotten"] == 2
    assert len(vault.held) == 4
    asked = full("backup", "prune", "-o", "json")
    assert (asked.code, asked.error["code"], len(vault.held)) == (5, "confirmation-required", 4)
    done = full.ok("backup", "prune", "--yes", "-o", "json").json
    assert (done["forgotten"], done["action"]) == (2, "pruned")
    assert (len(vault.held), vault.calls[-1]) == (2, ("prune",))
    rows = full.ok("audit", "alice", "-o", "json").items[-2:]
    assert [(row["kind"], row["verb"], row["action"]) for row in rows] == [
        ("intent", "backup prune", "forgotten"), ("done", "backup prune", "forgotten"),
    ]  # fmt: skip
    assert all(call in rows[0]["plan"] for call in vault.calls[-2][1:]), "each by its id"
    assert full.ok("backup", "prune", "-o", "json").json["forgotten"] == 0, "who forgets nothing isn't asked"


def test_forgetting_that_failed_is_recorded_as_such(full: Desk) -> None:
    vault = full.reached.vault
    assert vault is not None
    full.ok("stop", "alice")
    for _ in range(3):
        later(full)
        full.ok("backup", "run")
    later(full)
    vault.locked = 99
    full("backup", "run")
    rows = full.ok("audit", "alice", "-o", "json").items[-2:]
    assert [(row["kind"], row["action"]) for row in rows] == [("intent", "forgotten"), ("failed", "forgotten")]
    assert "locked" in rows[1]["detail"]


# ---- secrets


def test_secrets_come_from_files_and_reach_the_repository(desk: Desk, tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    vault = FakeVault(tmp_path / "vault", exists=True)

    def repository(name: str, environment: dict[str, str]) -> object:
        seen.append(environment)
        return vault.at(name, tmp_path)

    desk.patch.setattr(desk.reached, "repository", repository, raising=False)
    (desk.folder / "password").write_text("one two\n")
    (desk.folder / "env").write_text("# keys\nAWS_ACCESS_KEY_ID=abc\n\nAWS_SECRET_ACCESS_KEY=d=e f\n")
    more = "backup: {repository: /mnt/backup, password_file: password, env_file: env}\n"
    desk.inventory(INVENTORY + more)
    desk.ok("backup", "ls")
    assert seen[0] == {
        "AWS_ACCESS_KEY_ID": "abc", "AWS_SECRET_ACCESS_KEY": "d=e f", "RESTIC_REPOSITORY": "/mnt/backup",
        "RESTIC_PASSWORD": "one two",
    }  # fmt: skip
    (desk.folder / "env").write_text("export A=b\n")
    result = desk("backup", "ls", "-o", "json")
    assert (result.code, "env:1: not a line NAME=VALUE" in result.error["message"]) == (3, True)
    (desk.folder / "password").unlink()
    assert desk("backup", "ls").code == 3


@pytest.mark.parametrize(
    "repository",
    [
        "relative/path",
        "s3:https://key:secret@host/b",
        "sftp:a:b@host:/x",
        "rest:https://u:p@h/",
        "/a b",
        "ftp:x",
        "/../x",
    ],
)
def test_a_repository_that_cant_be_is_refused_without_repeating_it(desk: Desk, repository: str) -> None:
    desk.inventory(INVENTORY + f"backup: {{repository: {repository!r}}}\n")
    result = desk("inventory", "check", "-o", "json")
    assert result.code == 3
    assert "secret" not in result.err + result.out
