"""`wsctl metrics`."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.commands.conftest import INVENTORY, Desk
from tests.fakes import FakeClock
from wsctl.context import App


def figures(text: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            assert name not in found, name
            found[name] = float(value)
    return found


def test_the_cluster_in_figures(desk: Desk) -> None:
    desk.ok("place", "alice", "bob")
    desk.ok("stop", "bob")
    desk.clock.advance(600)  # type: ignore[union-attr]
    there, gone = desk.home("alice"), "n3"
    desk.ok("node", "cordon", gone, "--reason", "disk")
    desk.fleet.cut(gone)
    desk.hold("user:alice", "user:bob", "node:n1")
    found = figures(desk.ok("metrics").out)
    assert found[f'wsctl_placements{{node="{there}",state="running"}}'] == 1
    assert found[f'wsctl_placements{{node="{there}",state="failed"}}'] == 0
    assert sum(value for name, value in found.items() if name.startswith("wsctl_placements{")) == 2
    assert (found['wsctl_node_reachable{node="n1"}'], found[f'wsctl_node_reachable{{node="{gone}"}}']) == (1, 0)
    assert found[f'wsctl_node_state{{node="{gone}",state="cordoned"}}'] == 1
    assert found['wsctl_node_workspaces_capacity{node="n1"}'] == 10
    assert found[f'wsctl_node_memory_taken_bytes{{node="{there}"}}'] == 2 * 1024**3
    assert (found['wsctl_leases{kind="user"}'], found['wsctl_leases{kind="node"}']) == (2, 1)
    assert (found['wsctl_users_active{within="5m"}'], found['wsctl_users_active{within="1h"}']) == (0, 1)
    assert found['wsctl_last_activity_age_seconds{quantile="0.5"}'] == 600
    assert (found["wsctl_coordination_up"], found["wsctl_activity_up"]) == (1, 1)


def test_no_user_is_named_and_every_figure_is_explained(desk: Desk) -> None:
    desk.ok("place", "alice")
    text = desk.ok("metrics").out
    assert "alice" not in text
    names = {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
    for name in names:
        assert text.count(f"# HELP {name} ") == text.count(f"# TYPE {name} gauge\n") == 1


def test_nodes_that_arent_asked_have_no_reachability(desk: Desk) -> None:
    desk.ok("place", "alice")
    desk.forget()
    found = figures(desk.ok("metrics", "--no-probe").out)
    assert not [name for name in found if name.startswith("wsctl_node_reachable")]
    assert not any(engine.calls for engine in desk.fleet.engines.values())


def test_a_file_is_there_as_a_whole_and_stays_when_there_is_nothing_to_tell(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "wsctl.prom"
    said = desk.ok("metrics", "--out", str(out), "-o", "json").json
    assert (said["file"], said["action"]) == (str(out), "written")
    assert out.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    text = out.read_text()
    assert text.endswith("\n")
    assert desk("metrics", "--out", str(tmp_path / "no" / "folder")).code == 5
    desk.state.write_bytes(b"this is no database, whatever it was" * 100)
    assert desk("metrics", "--out", str(out)).code == 10
    assert out.read_text() == text


def test_coordination_that_is_away_is_a_figure(desk: Desk) -> None:
    desk.ok("place", "alice")
    desk.inventory(INVENTORY + "coordination: redis://127.0.0.1:1/0\n")
    result = desk("metrics")
    assert result.code == 0
    found = figures(result.out)
    assert (found["wsctl_coordination_up"], found["wsctl_activity_up"]) == (0, 0)
    assert "can't connect" in result.err


def test_prometheus_reads_it(desk: Desk) -> None:
    """Its own parser, not ours: every figure has a type and a help, and belongs to the family above it."""
    desk.ok("place", "alice")
    families = list(text_string_to_metric_families(desk.ok("metrics").out))
    assert families
    for family in families:
        assert family.type in ("gauge", "counter"), family.name
        assert family.documentation, family.name
        assert family.samples, family.name
    names = [family.name for family in families]
    assert len(set(names)) == len(names), "each family is there once"


def test_ages_are_by_the_clock_that_they_were_recorded_with(desk: Desk) -> None:
    """With MySQL that is the database's, whatever this machine's says."""
    desk.ok("place", "alice")
    recorded = desk.clock.now()
    desk.patch.setattr(App, "clock_of", lambda app, store: FakeClock(recorded + timedelta(seconds=600)))
    assert figures(desk.ok("metrics").out)['wsctl_last_activity_age_seconds{quantile="0"}'] == 600
