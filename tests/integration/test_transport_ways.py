"""The ways to a node, for real: jump hosts, ssh_config, the agent, IPv6, accounts; and how fast and wide they are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from wsctl.errors import HostKeyError, NodeUnreachable
from wsctl.model import Capacity, Node, PortRange, SshSettings
from wsctl.transport import Connections, Timeouts, fanout

pytestmark = pytest.mark.lab


@pytest.fixture
def connect(lab: Any) -> Iterator[Callable[..., Connections]]:
    opened: list[Connections] = []

    def connect(**nodes: tuple[str, dict[str, Any]]) -> Connections:
        made = {}
        for name, (address, ssh) in nodes.items():
            settings = {
                "user": "root",
                "identity_file": str(lab.ssh_key),
                "known_hosts": str(lab.known_hosts),
                "config": False,
            } | ssh
            made[name] = Node(
                name, address, PortRange(28000, 28999), Capacity(9, 2**33, 9000), ssh=SshSettings(**settings)
            )
        opened.append(Connections(made, cluster="ways", timeouts=Timeouts(diagnosis=1.0)))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


def established(address: str) -> int:
    """How many SSH connections this machine has to the address."""
    shown = subprocess.run(["ss", "-Htn", "dst", address], capture_output=True, text=True, check=True).stdout
    return sum(":22 " in f"{line} " for line in shown.splitlines() if "ESTAB" in line)


def test_one_connection_for_forty_threads(connect: Any, lab: Any) -> None:
    address = lab.nodes["n1"].address
    connections = connect(n1=(address, {}))
    before = established(address)
    errors: list[Exception] = []
    gate = threading.Barrier(40)

    def work() -> None:
        gate.wait()
        try:
            connections.engine("n1").containers()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert established(address) - before == 1


def test_no_process_is_started_on_the_node(connect: Any, lab: Any) -> None:
    node = lab.nodes["n1"]
    engine = connect(n1=(node.address, {})).engine("n1")
    engine.containers()
    before = len(node.daemon_processes("sshd"))
    for _ in range(20):
        engine.containers()
    assert len(node.daemon_processes("sshd")) <= before


def test_peer_is_the_address_when_the_inventory_has_a_name(
    connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.nodes["n1"]
    use_ssh_config(monkeypatch, tmp_path, f"Host alias\n  HostName {node.address}\n")
    engine = connect(n1=("alias", {"config": True})).engine("n1")
    assert engine.address == node.address


def use_ssh_config(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Let `ssh -G` read this configuration: OpenSSH takes the home folder from the password database, not from HOME,
    hence a wrapper in front of it."""
    config = folder / "config"
    config.write_text(text)
    wrapper = folder / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {config} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_everything_from_ssh_config_with_include(
    connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.nodes["n2"]
    (tmp_path / "more").write_text(
        f"Host box\n  HostName {node.address}\n  User root\n  IdentityFile {lab.ssh_key}\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {lab.known_hosts}\n"
    )
    use_ssh_config(monkeypatch, tmp_path, f"Include {tmp_path}/more\n")
    bare = {"config": True, "user": None, "identity_file": None, "known_hosts": None}
    connect(n2=("box", bare)).engine("n2").containers()


def test_the_inventory_wins_over_ssh_config(
    connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = lab.nodes["n2"]
    use_ssh_config(monkeypatch, tmp_path, f"Host box\n  HostName {node.address}\n  User nobody\n  Port 9\n")
    connect(n2=("box", {"config": True, "port": 22})).engine("n2").containers()


def test_broken_ssh_config_is_named(connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_ssh_config(monkeypatch, tmp_path, "NoSuchKeyword yes\n")
    with pytest.raises(NodeUnreachable, match="ssh can't use its configuration"):
        connect(n1=(lab.nodes["n1"].address, {"config": True})).engine("n1")


def test_jump_through_another_node(connect: Any, lab: Any) -> None:
    hop, node = lab.nodes["n1"].address, lab.nodes["n2"]
    before = established(hop)
    connections = connect(
        n2=(node.address, {"proxy_jump": f"root@{hop}"}), n3=(lab.nodes["n3"].address, {"proxy_jump": f"root@{hop}:22"})
    )
    connections.engine("n2").containers()
    connections.engine("n3").containers()
    assert established(node.address) == 0
    assert established(hop) - before == 1  # both nodes share the jump host's connection


def test_chain_of_jumps_with_ipv6(connect: Any, lab: Any) -> None:
    n1, n2, n3 = (lab.nodes[name] for name in ("n1", "n2", "n3"))
    connections = connect(n3=(n3.address, {"proxy_jump": f"root@[{n1.address6}]:22,root@{n2.address}"}))
    engine = connections.engine("n3")
    engine.containers()
    assert engine.address == n3.address


def test_jump_from_ssh_config(connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n1, n2 = lab.nodes["n1"], lab.nodes["n2"]
    common = f"Host *\n  User root\n  IdentityFile {lab.ssh_key}\n  UserKnownHostsFile {lab.known_hosts}\n"
    text = f"Host far\n  HostName {n2.address}\n  ProxyJump near\nHost near\n  HostName {n1.address}\n{common}"
    use_ssh_config(monkeypatch, tmp_path, text)
    bare = {"config": True, "user": None, "identity_file": None, "known_hosts": None}
    connect(n2=("far", bare)).engine("n2").containers()


def test_proxy_command_from_ssh_config(connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n1, n2 = lab.nodes["n1"], lab.nodes["n2"]
    command = f"/usr/bin/ssh -F {lab.ssh_config} -W %h:%p {n1.address}"
    use_ssh_config(monkeypatch, tmp_path, f"Host far\n  HostName {n2.address}\n  ProxyCommand {command}\n")
    connect(n2=("far", {"config": True})).engine("n2").containers()


def test_untrusted_jump_host_is_refused_and_can_be_trusted(connect: Any, lab: Any, tmp_path: Path) -> None:
    hop, node = lab.nodes["n1"], lab.nodes["n2"]
    known = tmp_path / "known_hosts"
    way = (node.address, {"proxy_jump": f"root@{hop.address}", "known_hosts": str(known)})
    with pytest.raises(HostKeyError, match="jump host root@") as caught:
        connect(n2=way).engine("n2")
    assert caught.value.hint == "wsctl node trust n2"
    connections = connect(n2=way)
    for expected in (hop.address, node.address):
        key = connections.scan_host_key("n2")
        assert (key.host, key.status) == (expected, "new")
        connections.trust("n2", key)
        connections = connect(n2=way)
    assert connections.scan_host_key("n2").status == "trusted"
    connections.engine("n2").containers()


def test_jump_host_that_forbids_forwarding(connect: Any, fault_lab: Any) -> None:
    hop, node = fault_lab.nodes["n1"], fault_lab.nodes["n2"]
    hop.sshd_option("AllowTcpForwarding no")
    with pytest.raises(NodeUnreachable, match="forbids forwarding"):
        connect(n2=(node.address, {"proxy_jump": f"root@{hop.address}"})).engine("n2")


def test_jump_host_that_cannot_reach_the_node(connect: Any, lab: Any) -> None:
    way = {"proxy_jump": f"root@{lab.nodes['n1'].address}", "port": 9}
    with pytest.raises(NodeUnreachable, match=r"can't reach .* port 9"):
        connect(n2=(lab.nodes["n2"].address, way)).engine("n2")


def test_ipv6(connect: Any, lab: Any) -> None:
    address = lab.nodes["n1"].address6
    engine = connect(n1=(address, {})).engine("n1")
    engine.containers()
    assert engine.address == address


def test_agent_holds_the_key_of_an_encrypted_file(
    connect: Any, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "id"
    key.write_bytes(Path(lab.ssh_key).read_bytes())
    key.chmod(0o600)
    (tmp_path / "id.pub").write_text(
        subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True, text=True).stdout
    )
    agent = tmp_path / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 5
        while not agent.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        subprocess.run(["ssh-add", "-q", key], check=True)
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True)
        connect(n1=(lab.nodes["n1"].address, {"identity_file": str(key)})).engine("n1").containers()
        connect(n1=(lab.nodes["n1"].address, {"identity_file": None})).engine("n1").containers()
    finally:
        process.terminate()
        process.wait()


def test_warm_and_fan_out_over_all_nodes(connect: Any, lab: Any) -> None:
    ways = {name: (node.address, {}) for name, node in lab.nodes.items()}
    connections = connect(**ways)
    connections.warm(ways)
    connections.warm(ways)
    results = fanout.run(ways, lambda name: connections.engine(name).facts().ncpu)
    assert list(results) == list(ways)
    assert all(isinstance(result, int) for result in results.values()), results


def test_exec_output_is_complete(connect: Any, lab: Any) -> None:
    client = connect(n1=(lab.nodes["n1"].address, {})).engine("n1").client
    config = {"Image": "wsctl-lab/workspace:1", "Cmd": ["sleep", "60"]}
    made = client.create_container_from_config(config, f"exec-{os.getpid()}")["Id"]
    try:
        client.start(made)
        for _ in range(25):
            run = client.exec_create(made, ["echo", "hello"])["Id"]
            assert client.exec_start(run) == b"hello\n"
        run = client.exec_create(made, ["sh", "-c", "echo out; echo err >&2"])["Id"]
        assert client.exec_start(run, demux=True) == (b"out\n", b"err\n")
    finally:
        client.remove_container(made, force=True)


MEASURE = """
import sys, time, statistics
import docker
client = docker.APIClient(base_url=sys.argv[1], version="1.41")
def get(number):
    try:
        client.inspect_container(f"none-{number}")
    except docker.errors.NotFound:
        pass
get("x")
started = time.perf_counter()
for number in range(50):
    get(number)
print(time.perf_counter() - started)
"""


def test_fifty_gets_are_ten_times_faster_than_docker_pys_own_ssh(connect: Any, lab: Any, tmp_path: Path) -> None:
    node = lab.nodes["n1"]
    engine = connect(n1=(node.address, {})).engine("n1")

    def ours() -> float:
        started = time.perf_counter()
        for number in range(50):
            assert engine.container(f"none-{number}") is None
        return time.perf_counter() - started

    def theirs(url: str) -> float:
        home = tmp_path / "home"
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        (home / ".ssh" / "config").write_text(lab.ssh_config.read_text())
        (home / ".ssh" / "known_hosts").write_text(lab.known_hosts.read_text())
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, url],
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    ours()
    mine = median(ours() for _ in range(5))
    local = median(theirs(f"unix://{node.docker_socket_path}") for _ in range(3))
    slow = theirs(f"ssh://root@{node.address}")
    print(
        f"50 GETs: wsctl {mine * 1000:.0f} ms, local socket {local * 1000:.0f} ms, docker-py ssh {slow * 1000:.0f} ms"
    )
    assert slow >= 10 * mine
    assert (mine - local) / 50 <= 0.0015
