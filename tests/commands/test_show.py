"""`wsctl ls` and `wsctl show`: reading, also when nodes don't answer and when there is nothing yet."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Desk
from tests.commands.test_place import PLACEMENT


def test_ls_of_an_empty_cluster_makes_no_file(desk: Desk) -> None:
    assert desk.ok("ls", "-o", "json").items == []
    assert desk.ok("ls").lines == [["USER", "NODE", "ADDRESS", "PORT", "STATE", "GEN", "ACTIVE"]]
    assert not desk.state.exists()


def test_ls_asks_no_node(alice: Desk) -> None:
    for name in ("n1", "n2", "n3"):
        alice.fleet.cut(name)
    (item,) = alice.ok("ls", "-o", "json").items
    assert set(item) == PLACEMENT | {"standby_node", "standby_as_of", "standby_age_s"}
    assert (item["user"], item["state"], item["url_path"]) == ("alice", "running", "/ws/alice/")
    assert alice.reached.opened == 1, "only `place` opened connections"


def test_ls_is_sorted_and_can_be_narrowed(desk: Desk) -> None:
    desk.ok("place", "carol", "alice", "bob")
    desk.ok("stop", "bob")
    assert [item["user"] for item in desk.ok("ls", "-o", "json").items] == ["alice", "bob", "carol"]
    assert [item["user"] for item in desk.ok("ls", "--state", "stopped", "-o", "json").items] == ["bob"]
    home = desk.home("carol")
    assert [item["user"] for item in desk.ok("ls", "--node", home, "-o", "json").items] == ["carol"]
    assert desk("ls", "--state", "asleep").code == 2


def test_ls_of_a_misspelt_node_is_4_with_a_suggestion(alice: Desk) -> None:
    result = alice("ls", "--node", "n11")
    assert result.code == 4
    assert "did you mean" in result.err
    assert alice.ok("ls", "--node", "n3", "-o", "json").items == []


@pytest.mark.parametrize("form", ["table", "plain"])
def test_ls_in_words(alice: Desk, form: str) -> None:
    alice.clock.advance(90)  # type: ignore[union-attr]
    header, row = alice.ok("ls", "-o", form).out.splitlines()
    assert header.split() == ["USER", "NODE", "ADDRESS", "PORT", "STATE", "GEN", "ACTIVE"]
    assert row.split() == ["alice", "n1", "10.0.0.1", "20000", "running", "1", "1m", "30s", "ago"]


def test_show_says_what_is_recorded_and_what_is_there(alice: Desk) -> None:
    found = alice.ok("show", "alice", "-o", "json").json
    assert set(found) >= PLACEMENT | {"observed", "observed_detail", "class", "memory_bytes", "cpus", "created_at"}
    assert (found["observed"], found["active_by"], found["memory_bytes"]) == ("running", "start", 2 << 30)
    alice.fleet["n1"].exit("ws-u-alice")
    assert alice.ok("show", "alice", "-o", "json").json["observed"] == "exited"
    alice.fleet["n1"].remove("ws-u-alice")
    assert alice.ok("show", "alice", "-o", "json").json["observed"] == "missing"


def test_show_of_a_user_on_a_silent_node_is_still_an_answer(alice: Desk) -> None:
    alice.fleet.cut("n1")
    found = alice.ok("show", "alice", "-o", "json").json
    assert (found["observed"], found["observed_detail"]) == ("unknown", "no route to the host")


def test_show_tells_a_stale_copy_and_a_stranger(alice: Desk) -> None:
    engine = alice.fleet["n1"]
    engine.remove("ws-u-alice")
    engine.add("ws-u-alice", cluster="studio", user="alice", generation="9")
    assert "stale copy: generation 9" in alice.ok("show", "alice").out
    engine.remove("ws-u-alice")
    engine.add("ws-u-alice", cluster="other", user="alice", generation="1")
    assert "isn't ours" in alice.ok("show", "alice").out


def test_show_changes_nothing(alice: Desk) -> None:
    before = alice.sql("SELECT * FROM placements"), alice.sql("SELECT * FROM activity")
    alice.ok("show", "alice")
    assert (alice.sql("SELECT * FROM placements"), alice.sql("SELECT * FROM activity")) == before
    assert not alice.effects()
