"""Backups on real nodes: the state from SQLite to MySQL, a user's files through SSH, a wsctl that is killed."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests import objectstore
from tests.integration.labsite import Site, eventually


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Site]:
    made = Site(lab, tmp_path)
    try:
        yield made
    finally:
        for node in lab.nodes.values():
            node.run(["sh", "-c", f"rm -rf /srv/workspaces/.wsctl-*/*-{made.tag}.*"], check=False)
        made.sweep()


def on(site: Site, node: str, script: str) -> str:
    """What a shell command on a node says."""
    return str(site.lab.nodes[node].run(["sh", "-c", script]).stdout)


def manifest(site: Site, node: str, folder: str) -> str:
    """Everything about a tree on a node: names, types, modes, owners, sizes, times, links, contents."""
    where = shlex.quote(folder)
    facts = on(site, node, f"cd {where} && find . -printf '%P %y %m %U:%G %s %T@ %n %l\\n' | LC_ALL=C sort")
    return facts + on(site, node, f"cd {where} && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum")


def fill(site: Site, node: str, user: str) -> str:
    """Give a user a tree with everything in it; its folder."""
    folder = f"/srv/workspaces/{user}"
    on(
        site,
        node,
        f"cd {folder} && mkdir -p src/deep empty && for i in $(seq 300); do echo file $i > src/f$i; done; "
        "head -c 5000000 /dev/urandom > big; ln big hard; ln -s /etc/passwd outside; ln -s nowhere broken; "
        "touch -d @1234567890.123456789 src/f1; chmod 600 src/f2; chown 1000:1001 src/f3; chmod 2775 empty; "
        "printf x > \"$(printf 'src/\\377\\376')\"; mkfifo pipe",
    )
    return folder


def test_the_state_goes_to_mysql_and_back(site: Site, lab: Lab, tmp_path: Path) -> None:
    alice, bob = site.user(), site.user("bob")
    site.run("place", alice, bob)
    site.run("stop", bob)
    before = site.json("ls")
    site.run("backup", "state", "--out", "state.jsonl")
    database = f"wsctl_{uuid.uuid4().hex[:8]}"
    lab.sql(f"CREATE DATABASE {database}")
    try:
        site.edit('state: "sqlite:///wsctl.db"', f'state: "{lab.mysql_url.rpartition("/")[0]}/{database}"')
        if "state_password_file" not in site.path.read_text():
            password = f"state_password_file: {lab.mysql_password_file}\n"
            site.path.write_text(site.path.read_text() + password)
        assert site.json("restore", "state", "--from", "state.jsonl")["action"] == "restored"
        assert site.json("ls") == before
        assert site.json("audit", "--verify")["result"] == "ok"
        assert site.json("reconcile", "--dry-run")["items"] == []
        assert site.json("start", bob)["state"] == "running"
        site.run("backup", "state", "--out", "back.jsonl")
    finally:
        lab.sql(f"DROP DATABASE {database}")


def test_files_go_through_ssh_and_come_back_unchanged(site: Site) -> None:
    alice = site.user()
    node = site.json("place", alice)["node"]
    folder = fill(site, node, alice)
    on(site, node, f"rm {folder}/pipe")
    done = site.json("backup", "export", alice, "--out", "a.tar")
    assert (done["node"], done["live"], done["left_out"]) == (node, False, [])
    assert site.containers() == [f"{node}/ws-u-{alice}"]
    before = manifest(site, node, folder)
    on(site, node, f"echo broken > {folder}/src/f1; rm -r {folder}/empty; touch {folder}/since")
    broken = manifest(site, node, folder)
    assert site.run("restore", "import", alice, "--from", "a.tar", "--confirm", alice, code=5)
    site.run("stop", alice)
    done = site.json("restore", "import", alice, "--from", "a.tar", "--confirm", alice)
    assert manifest(site, node, folder) == before
    assert manifest(site, node, done["kept"]) == broken
    assert site.json("start", alice)["state"] == "running"
    assert on(site, node, f"docker exec ws-u-{alice} cat /workspace/src/f2") == "file 2\n"


def test_a_user_moves_to_another_node_in_an_archive(site: Site) -> None:
    alice = site.user()
    node = site.json("place", alice)["node"]
    folder = fill(site, node, alice)
    done = site.json("backup", "export", alice, "--out", "a.tar")
    assert done["left_out"] == [{"path": "pipe", "reason": "a device or named pipe"}]
    on(site, node, f"rm {folder}/pipe")
    site.run("stop", alice)
    before = manifest(site, node, folder)
    site.run("rm", alice, "--purge-data", "--confirm", alice)
    other = next(name for name in site.lab.nodes if name != node)
    assert site.json("restore", "import", alice, "--from", "a.tar", "--to", other)["node"] == other
    after = manifest(site, other, folder)
    # The folder's own time is of when the pipe was removed.
    assert after.splitlines()[1:] == before.splitlines()[1:]
    assert site.json("place", alice)["node"] == other


@pytest.mark.timeout(240)
@pytest.mark.parametrize("verb", ["export", "import"])
def test_killed_in_the_middle_it_has_changed_nothing(site: Site, verb: str) -> None:
    alice = site.user()
    node = site.json("place", alice)["node"]
    folder = f"/srv/workspaces/{alice}"
    on(site, node, f"head -c 400000000 /dev/zero > {folder}/big")
    argv = ["backup", "export", alice, "--out", "a.tar"]
    if verb == "import":
        site.run(*argv)
        site.run("stop", alice)
        on(site, node, f"echo precious > {folder}/new")
        argv = ["restore", "import", alice, "--from", "a.tar", "--confirm", alice]
    before = manifest(site, node, folder)
    process = site.start(*argv)
    try:
        if verb == "export":
            eventually(lambda: [p for p in site.folder.glob(".a.tar.*") if p.stat().st_size > 1e6], 30)
        else:
            uploads = f"ls -d /srv/workspaces/.wsctl-incoming/{alice}.* 2>/dev/null || true"
            eventually(lambda: on(site, node, uploads), 60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert manifest(site, node, folder) == before
    if verb == "export":
        assert not (site.folder / "a.tar").exists()
        assert on(site, node, f"docker inspect -f '{{{{.State.Status}}}}' ws-u-{alice}").strip() == "paused"
        found = eventually(lambda: _paused(site, alice), 60)
        assert found["repaired"] is True
        assert on(site, node, f"docker inspect -f '{{{{.State.Status}}}}' ws-u-{alice}").strip() == "running"
    else:
        # The lease of the one that was killed runs out; then the same command does it all.
        site.run(*argv, "--wait", "60s", timeout=120)
        assert not on(site, node, f"ls -d /srv/workspaces/.wsctl-incoming/{alice}.* 2>/dev/null || true")
        kept = on(site, node, f"ls -d /srv/workspaces/.wsctl-kept/{alice}.*").strip()
        assert manifest(site, node, kept) == before


def _paused(site: Site, user: str) -> dict[str, object] | None:
    """What `reconcile` made of a workspace that was left paused, once the lease of who left it so has run out."""
    items = site.json("reconcile", "--user", user, code=None)["items"]
    return next((item for item in items if item["kind"] == "paused" and item["repaired"]), None)


@pytest.fixture
def vault(site: Site) -> Iterator[str]:
    """A repository of backups on the last node, which the others reach by SFTP as an operator would set it up."""
    store = list(site.lab.nodes)[-1]
    place, address = f"/srv/backups-{site.tag}", site.lab.nodes[store].address
    for node in site.lab.nodes:
        key = on(
            site,
            node,
            "mkdir -p -m 700 ~/.ssh; [ -e ~/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519; "
            f"ssh-keyscan {address} 2>/dev/null >> ~/.ssh/known_hosts; cat ~/.ssh/id_ed25519.pub",
        ).strip()
        on(site, store, f"mkdir -p -m 700 ~/.ssh; echo {shlex.quote(f'{key} {site.tag}')} >> ~/.ssh/authorized_keys")
    (site.folder / "password").write_text("a long secret\n")
    keep = "keep: {last: 2, daily: 0, weekly: 0, monthly: 0}"
    backup = f"backup: {{repository: 'sftp:root@{address}:{place}', password_file: password, {keep}}}\n"
    site.path.write_text(site.path.read_text() + backup)
    assert site.run("backup", "ls", "-o", "json", code=8).error["code"] == "repository-missing"
    assert [item["action"] for item in site.json("backup", "init")["items"]] == ["created"]
    yield place
    on(site, store, f"rm -rf {place}; sed -i '/ {site.tag}$/d' ~/.ssh/authorized_keys")


@pytest.mark.timeout(300)
def test_snapshots_of_who_works_come_back_on_any_node(site: Site, vault: str) -> None:
    """Taken with restic on the nodes, the second pass paused; verified; restored here, and after a loss elsewhere."""
    alice = site.user()
    node = site.json("place", alice)["node"]
    folder = fill(site, node, alice)
    (first,) = site.json("backup", "run", "--request-id", "night")["items"]
    assert (first["kind"], first["error"], first["unread"]) == ("consistent", None, "")
    assert 0 < first["paused_ms"] < 20_000
    assert site.json("backup", "run", "--request-id", "night")["items"] == [first]
    assert site.containers() == [f"{node}/ws-u-{alice}"]
    before = manifest(site, node, folder)
    (item,) = site.json("backup", "verify")["items"]
    assert (item["verdict"], item["detail"]) == ("restorable", [])
    assert not on(site, node, f"ls -d /srv/workspaces/.wsctl-incoming/{alice}.* 2>/dev/null || true")

    on(site, node, f"echo broken > {folder}/src/f1; rm -r {folder}/empty; touch {folder}/since")
    broken = manifest(site, node, folder)
    site.run("stop", alice)
    site.run("backup", "run", alice)
    done = site.json("restore", alice, "--snapshot", first["snapshot"], "--confirm", alice)
    assert manifest(site, node, folder).splitlines()[1:] == before.splitlines()[1:]
    assert manifest(site, node, done["kept"]) == broken
    assert site.json("start", alice)["state"] == "running"

    site.run("rm", alice, "--purge-data", "--confirm", alice)
    other = next(name for name in site.lab.nodes if name != node)
    assert site.json("restore", alice, "--to", other)["node"] == other
    assert manifest(site, other, folder).splitlines()[1:] == broken.splitlines()[1:], "the newest is of the stop"
    assert site.json("place", alice)["node"] == other


@pytest.mark.timeout(240)
def test_killed_while_it_copies_it_leaves_a_sound_repository(site: Site, vault: str) -> None:
    alice = site.user()
    node = site.json("place", alice)["node"]
    on(site, node, f"head -c 150000000 /dev/urandom > /srv/workspaces/{alice}/big")
    process = site.start("backup", "run")
    try:
        store = list(site.lab.nodes)[-1]
        eventually(lambda: int(on(site, store, f"du -s {vault}").split()[0]) > 20_000, 60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    eventually(lambda: not on(site, node, "pgrep -f '[r]estic backup' || true"), 30)
    (done,) = site.json("backup", "run", "--wait", "60s", timeout=150)["items"]
    assert done["kind"] == "consistent"
    assert site.json("backup", "verify", alice)["items"][0]["verdict"] == "restorable"
    assert site.json("backup", "prune", "--yes")["action"] == "pruned"
    assert site.containers() == [f"{node}/ws-u-{alice}"]


@pytest.mark.timeout(240)
def test_users_of_a_node_that_is_given_up_go_on_from_the_backup(site: Site, vault: str) -> None:
    alice = site.user()
    node = site.json("place", alice)["node"]
    on(site, node, f"echo of last night > /srv/workspaces/{alice}/notes")
    site.run("backup", "run", alice)
    on(site, node, f"echo since then > /srv/workspaces/{alice}/notes")
    assert site.run("node", "fail", node, "--force", "--yes", "-o", "json", code=9).items[0]["action"] == "left-down"
    (item,) = site.json("node", "fail", node, "--force", "--yes", "--accept-data-loss")["items"]
    assert item["action"] == "failed-over"
    other = site.json("show", alice)["node"]
    assert other != node
    assert on(site, other, f"docker exec ws-u-{alice} cat /workspace/notes") == "of last night\n"
    # Nothing on the node that was given up is lost: it is put aside there, and told.
    site.run("reconcile", "--yes", code=9)
    told = [one for one in site.run("reconcile", "-o", "json", code=9).items if one["kind"] == "conflict"]
    assert [(one["user"], one["node"]) for one in told] == [(alice, node)]
    kept = on(site, node, f"cat /srv/workspaces/.wsctl-kept/{alice}-failed-*/notes")
    assert kept == "since then\n"


@pytest.mark.timeout(240)
def test_snapshots_go_to_an_object_store_and_come_back(site: Site) -> None:
    """By restic on the nodes to an S3-compatible store, with keys that stay on the control host."""
    alice = site.user()
    node = site.json("place", alice)["node"]
    folder = fill(site, node, alice)
    before = manifest(site, node, folder)
    (site.folder / "password").write_text("a long secret\n")
    keys = site.folder / "keys"
    keys.write_text("AWS_ACCESS_KEY_ID=wsctl\nAWS_SECRET_ACCESS_KEY=not-this-one\n")
    keys.chmod(0o600)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((site.lab.nodes[node].address, 9))
        here = way.getsockname()[0]
    with objectstore.serving(here, "wsctl", "kept-on-the-control-host") as store:
        backup = f"repository: 's3:{store.url}/studio', password_file: password, env_file: keys"
        keep = "keep: {last: 1, daily: 0, weekly: 0, monthly: 0}"
        site.path.write_text(site.path.read_text() + f"backup: {{{backup}, {keep}}}\n")
        refused = site.run("backup", "init", "-o", "json", code=None)
        assert refused.code not in (0, 1)
        assert (store.refused > 0, store.buckets) == (True, {})
        assert "not-this-one" not in refused.out + refused.err

        keys.write_text("AWS_ACCESS_KEY_ID=wsctl\nAWS_SECRET_ACCESS_KEY=kept-on-the-control-host\n")
        assert [item["action"] for item in site.json("backup", "init")["items"]] == ["created"]
        (first,) = site.json("backup", "run")["items"]
        assert (first["kind"], first["error"]) == ("consistent", None)
        assert site.json("backup", "verify")["items"][0]["verdict"] == "restorable"
        everything = b"".join(data for data, _ in store.buckets["studio"].values())
        assert len(everything) > 5_000_000
        assert b"file 299" not in everything

        site.run("rm", alice, "--purge-data", "--confirm", alice)
        other = next(name for name in site.lab.nodes if name != node)
        assert site.json("restore", alice, "--to", other)["node"] == other
        # Who owns the folder itself, and when it was made, is the place's own.
        assert manifest(site, other, folder).splitlines()[1:] == before.splitlines()[1:]
        assert site.json("place", alice)["node"] == other
        assert site.json("backup", "prune", "--yes")["action"] == "pruned"
    # Not restic's cache, which is large, and named by the repository alone.
    places = "/root/.config /root/.ssh /tmp /var/tmp /run /srv"
    look = f"find {places} -xdev -type f -size -64k -exec grep -ls kept-on-the-control-host {{}} + 2>/dev/null || true"
    assert [on(site, name, look) for name in site.lab.nodes] == [""] * len(site.lab.nodes)
