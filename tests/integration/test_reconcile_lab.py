"""Real nodes, changed behind wsctl's back with the Docker command line, and put right again."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.labsite import Site

IMAGE = "wsctl-lab/workspace:1"


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        made.sweep()
        for node in lab.nodes.values():
            listed = node.run(["docker", "ps", "-aq", "--filter", f"name={made.tag}"], check=False, timeout=20)
            if listed.stdout.split():
                node.run(["docker", "rm", "-f", *listed.stdout.split()], check=False, timeout=60)


def docker(site: Site, node: str, *args: str) -> str:
    """A Docker command typed on the node."""
    return site.lab.nodes[node].run(["docker", *args]).stdout.strip()


def labels(site: Site, user: str, generation: int) -> list[str]:
    """The labels of a workspace, as options of `docker run`."""
    pairs = {"cluster": site.tag, "user": user, "generation": str(generation)}
    return [word for key, value in pairs.items() for word in ("--label", f"io.wsctl.{key}={value}")]


def kinds(answer: dict[str, list[dict[str, object]]]) -> dict[object, tuple[object, object]]:
    return {item["user"]: (item["kind"], item["repaired"]) for item in answer["items"]}


def test_what_was_done_by_hand_is_put_right_and_nothing_is_removed(site: Site) -> None:
    names = ("ended", "gone", "stale", "moved", "fine", "away")
    users = {name: site.user(name) for name in names}
    placed = {item["user"]: item for item in site.run("place", *users.values(), "-o", "json").items}

    def at(name: str) -> tuple[str, str]:
        return placed[users[name]]["node"], f"ws-u-{users[name]}"

    def write(name: str, text: str) -> None:
        docker(site, at(name)[0], "exec", at(name)[1], "sh", "-c", f"echo {text} > /workspace/kept")

    for name in names:
        write(name, name)
    site.run("stop", users["away"])
    docker(site, at("ended")[0], "kill", at("ended")[1])
    docker(site, at("gone")[0], "rm", "-f", at("gone")[1])
    # A copy of a generation that is no more, with something in its own layer.
    node, container = at("stale")
    docker(site, node, "rm", "-f", container)
    docker(site, node, "run", "-d", "--name", container, *labels(site, users["stale"], 77), IMAGE)
    docker(site, node, "exec", container, "sh", "-c", "echo precious > /tmp/only-here")
    # The same container by name and labels, published elsewhere.
    node, container = at("moved")
    docker(site, node, "rm", "-f", container)
    elsewhere = f"{site.lab.nodes[node].address}:{site.first_port + 25}:8080"
    docker(site, node, "run", "-d", "--name", container, *labels(site, users["moved"], 1), "-p", elsewhere, IMAGE)
    docker(site, at("away")[0], "start", at("away")[1])
    other = next(name for name in site.lab.nodes if name != at("fine")[0])
    docker(site, other, "run", "-d", "--name", at("fine")[1], *labels(site, users["fine"], 1), IMAGE)
    stranger = site.user("stranger")
    docker(site, "n1", "run", "-d", "--name", f"ws-u-{stranger}", *labels(site, stranger, 4), IMAGE)

    expected = {
        users["ended"]: "not-running",
        users["gone"]: "missing",
        users["stale"]: "stale-generation",
        users["moved"]: "wrong-port",
        users["away"]: "should-be-stopped",
        users["fine"]: "wrong-node",
        stranger: "orphan",
    }
    dry = site.json("reconcile", "--dry-run", code=9)
    assert kinds(dry) == {user: (kind, False) for user, kind in expected.items()}
    done = site.json("reconcile")
    assert kinds(done) == {user: (kind, True) for user, kind in expected.items()}
    assert site.json("reconcile")["items"] == []

    running = sorted(f"{at(name)[0]}/{at(name)[1]}" for name in names if name != "away")
    assert site.containers() == running
    for item in site.json("ls")["items"]:
        if item["state"] == "running":
            url = f"http://{item['address']}:{item['host_port']}/"
            assert item["user"] in urllib.request.urlopen(url, timeout=5).read().decode()
            node, name = item["node"], item["container"]
            assert docker(site, node, "exec", name, "cat", "/workspace/kept") in names
    kept = [one for one in site.containers(everything=True) if "/ws-q-" in one]
    assert len(kept) == 4
    (aside,) = [one for one in kept if users["stale"] in one]
    node, _, name = aside.partition("/")
    assert "precious" in docker(site, node, "cp", f"{name}:/tmp/only-here", "-")
    docker(site, node, "start", name)
    assert kinds(site.json("reconcile")) == {users["stale"]: ("should-be-stopped", True)}
    assert site.containers() == running


def test_a_hand_grown_fleet_moves_in(site: Site) -> None:
    node = site.lab.nodes["n2"]
    dave, eve = site.user("dave"), site.user("eve")
    for number, user in enumerate((dave, eve)):
        folder = f"/srv/workspaces/{user}" if user == dave else f"/srv/workspaces/old-{user}"
        publish = f"{node.address}:{site.first_port + 20 + number}:8080"
        docker(site, "n2", "run", "-d", "--name", f"jupyter-{user}", "-v", f"{folder}:/workspace", "-p", publish, IMAGE)
        docker(site, "n2", "exec", f"jupyter-{user}", "sh", "-c", f"echo {user} > /workspace/kept")
    assert site.json("reconcile")["items"] == []
    words = ("reconcile", "--adopt", "--adopt-name", "jupyter-{user}", "--user", dave, "--user", eve)
    assert site.run(*words, code=5).out == ""
    answer = site.json(*words, "--yes", code=9)
    assert kinds(answer) == {dave: ("unmanaged", True), eve: ("unmanaged", False)}
    assert f"move /srv/workspaces/old-{eve} to /srv/workspaces/{eve}" in json.dumps(answer)
    (item,) = site.json("ls")["items"]
    assert (item["user"], item["node"], item["host_port"]) == (dave, "n2", site.first_port + 20)
    assert docker(site, "n2", "exec", f"ws-u-{dave}", "cat", "/workspace/kept") == dave
    assert docker(site, "n2", "inspect", "-f", "{{.State.Running}}", f"jupyter-{eve}") == "true"
    assert site.json("reconcile")["items"] == []
