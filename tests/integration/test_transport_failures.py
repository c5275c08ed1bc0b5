"""Each way a node can fail, made for real, and the message that the operator gets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wsctl.errors import EngineError, HostKeyError, NodeUnreachable
from wsctl.model import Capacity, Node, PortRange, ReadyProbe, SshSettings
from wsctl.routes import GatewayHost
from wsctl.transport import Connections, Timeouts
from wsctl.transport.gateways import Gateways

pytestmark = pytest.mark.lab

QUICK = Timeouts(connect=1.5, handshake=1.5, auth=2.0, channel=1.5, request=1.5, diagnosis=1.0)


@pytest.fixture
def reach(fault_lab: Any) -> Iterator[Callable[..., Connections]]:
    """Connections to one node called n1, with what the test changes about it."""
    opened: list[Connections] = []

    def reach(
        *, address: str | None = None, socket: str = "/var/run/docker.sock", timeouts: Timeouts = QUICK, **ssh: Any
    ) -> Connections:
        settings = {
            "user": "root",
            "identity_file": str(fault_lab.ssh_key),
            "known_hosts": str(fault_lab.known_hosts),
            "config": False,
        } | ssh
        node = Node(
            "n1",
            address or fault_lab.nodes["n1"].address,
            PortRange(28000, 28999),
            Capacity(9, 2**33, 9000),
            ssh=SshSettings(**settings),
            docker_socket=socket,
        )
        opened.append(Connections({"n1": node}, cluster="faults", timeouts=timeouts))
        return opened[-1]

    yield reach
    for one in opened:
        one.close()


def failure(connections: Connections) -> NodeUnreachable:
    with pytest.raises(NodeUnreachable) as caught:
        connections.engine("n1")
    assert caught.value.node == "n1"
    assert caught.value.hint
    return caught.value


def test_port_where_nobody_listens(reach: Any) -> None:
    error = failure(reach(port=9))
    assert "refused the connection" in error.message
    assert "port 9" in error.message


def test_address_without_a_machine(reach: Any, lab: Any) -> None:
    free = lab.nodes["n1"].address.rsplit(".", 1)[0] + ".199"
    started = time.monotonic()
    error = failure(reach(address=free))
    assert "no route to the host" in error.message or "gave no answer within" in error.message
    assert time.monotonic() - started < 5


def test_name_that_does_not_resolve(reach: Any) -> None:
    assert "doesn't resolve" in failure(reach(address="no-such-node.invalid")).message


def test_cut_network_before_the_connection(reach: Any, fault_lab: Any) -> None:
    fault_lab.nodes["n1"].cut()
    error = failure(reach())
    assert "gave no answer within 1.5 s" in error.message or "no route" in error.message


def test_cut_network_after_the_connection(reach: Any, fault_lab: Any) -> None:
    engine = reach().engine("n1")
    fault_lab.nodes["n1"].cut()
    started = time.monotonic()
    with pytest.raises(NodeUnreachable, match=r"within 1.5 s, and sshd doesn't answer") as caught:
        engine.containers()
    assert "network was dropped" in (caught.value.hint or "")
    assert time.monotonic() - started < 5


def test_frozen_sshd(reach: Any, fault_lab: Any) -> None:
    fault_lab.nodes["n1"].freeze()
    error = failure(reach())
    assert "accepted the connection, but sshd sent no banner within 1.5 s" in error.message


def test_frozen_engine(reach: Any, fault_lab: Any) -> None:
    import signal

    engine = reach().engine("n1")
    fault_lab.nodes["n1"].signal_daemon("engine", signal.SIGSTOP)
    with pytest.raises(NodeUnreachable, match=r"sshd answers, but the engine gave no answer within 1.5 s") as caught:
        engine.containers()
    assert "frozen" in (caught.value.hint or "")


def test_frozen_machine_in_the_middle(reach: Any, fault_lab: Any) -> None:
    engine = reach().engine("n1")
    fault_lab.nodes["n1"].freeze()
    with pytest.raises(NodeUnreachable, match="sshd doesn't answer any more"):
        engine.containers()


def test_a_connection_that_broke_is_made_anew(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    connections = reach()
    engine = connections.engine("n1")
    for _ in range(2):
        node.restart_sshd()
        assert engine.containers() == connections.engine("n1").containers()
    node.restart_sshd()
    assert connections.commands("n1").run(["echo", "here"]) == (0, "here\n")
    assert engine.await_ready("nobody", node.address, 22, ReadyProbe(http_path=None, timeout_s=5.0)) >= 0


def test_a_gateway_is_connected_to_anew(fault_lab: Any) -> None:
    machine = fault_lab.nodes["n1"]
    ssh = SshSettings("root", 22, str(fault_lab.ssh_key), str(fault_lab.known_hosts), config=False)
    never = ("true",)
    host = GatewayHost("east", machine.address, ssh, "/run/wsctl-anew.map", never, never, "http://127.0.0.1/")
    gateways = Gateways({"east": host}, QUICK)
    gateway = gateways.gateway("east")
    machine.restart_sshd()
    assert gateway.read().text is None
    machine.restart_sshd()
    assert "refused" in gateway.status().words  # by what listens on port 80 there: nothing
    machine.stop_sshd()
    assert "refused the connection" in gateway.status().words
    with pytest.raises(NodeUnreachable, match="refused"):
        gateway.read()
    gateways.close()


def test_a_connection_that_ends_as_it_is_used_is_made_anew(reach: Any, fault_lab: Any) -> None:
    """Nobody has noticed yet that it ended."""
    node = fault_lab.nodes["n1"]
    connections = reach()
    engine, commands = connections.engine("n1"), connections.commands("n1")
    assert commands.run(["true"]) == (0, "")
    ssh_port = ReadyProbe(http_path=None, timeout_s=5.0)
    for use in (lambda: engine.await_ready("x", node.address, 22, ssh_port), lambda: commands.run(["true"])):
        session = connections._sessions.get().session(connections._node("n1"))
        assert session.is_open
        transport, real = session.transport, session.transport.open_channel

        def ends(*args: Any, transport: Any = transport, real: Any = real, **more: Any) -> Any:
            transport.open_channel = real
            node.restart_sshd()
            return real(*args, **more)

        transport.open_channel = ends
        use()
        assert not session.is_open


def test_forty_threads_make_a_broken_connection_anew_once(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    engine = reach(timeouts=Timeouts()).engine("n1")
    node.restart_sshd()
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda _: engine.containers(), range(40)))
    shown = node.run(["ss", "-Htn", "state", "established", "sport", "=", "22"]).stdout.split("\n")
    assert len([line for line in shown if line]) == 1, shown


def test_sshd_that_is_stopped_in_the_middle(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    engine = reach().engine("n1")
    node.stop_sshd()
    with pytest.raises(NodeUnreachable, match="refused"):
        engine.containers()
    node.start_sshd()
    # Who couldn't be reached once isn't waited for again and again: the next run tries.
    with pytest.raises(NodeUnreachable, match="refused"):
        engine.containers()
    assert reach().engine("n1").containers() is not None


def test_engine_that_is_restarted_costs_a_get_nothing(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    engine = reach(timeouts=Timeouts()).engine("n1")
    engine.containers()
    node.stop_engine()
    node.start_engine()
    engine.containers()


def test_stopped_engine(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    node.stop_engine()
    try:
        message = failure(reach()).message
        assert "the engine isn't running" in message or "there is no socket" in message
    finally:
        node.start_engine()


def occupy_sshd(address: str) -> socket.socket:
    """A connection that sshd greeted and that never logs in. The lab's own probe may still take the place."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        one = socket.create_connection((address, 22))
        one.settimeout(5)
        if one.recv(4) == b"SSH-":
            return one
        one.close()
        time.sleep(0.1)
    raise AssertionError("sshd greets nobody")


def test_full_maxstartups_is_waited_out_or_named(reach: Any, fault_lab: Any) -> None:
    node = fault_lab.nodes["n1"]
    node.sshd_option("MaxStartups 1:100:1")
    with occupy_sshd(node.address) as idle:
        error = failure(reach())
        assert "closed the connection before sshd's banner" in error.message
        assert "MaxStartups" in (error.hint or "")
        threading.Timer(0.3, idle.close).start()
        reach(timeouts=Timeouts(retries=6)).engine("n1")


@pytest.mark.parametrize("option", ["AllowStreamLocalForwarding no", "DisableForwarding yes"])
@pytest.mark.parametrize("user", ["root", "plain"])
def test_streamlocal_forbidden(reach: Any, fault_lab: Any, option: str, user: str) -> None:
    fault_lab.nodes["n1"].sshd_option(option)
    error = failure(reach(user=user))
    if user == "root":
        assert "sshd forbids root to forward to Unix sockets" in error.message
        assert "AllowStreamLocalForwarding" in (error.hint or "")
    else:
        # This account may not use the socket either; the first obstacle that is found is named.
        assert "forbids" in error.message or "may not use" in error.message


@pytest.mark.parametrize("option", ["AllowTcpForwarding no", "PermitOpen 127.0.0.1:1"])
def test_tcp_settings_that_close_unix_sockets_too(reach: Any, fault_lab: Any, option: str) -> None:
    """sshd has the words for them that it has for an engine that isn't running."""
    fault_lab.nodes["n1"].sshd_option(option)
    error = failure(reach())
    assert "AllowTcpForwarding or PermitOpen closes /var/run/docker.sock" in error.message
    assert "PermitOpen" in (error.hint or "")


def test_missing_socket(reach: Any) -> None:
    error = failure(reach(socket="/run/no-such.sock"))
    assert "there is no socket /run/no-such.sock" in error.message
    assert "Docker installed" in (error.hint or "")


def test_forbidden_socket(reach: Any) -> None:
    error = failure(reach(user="plain"))
    assert "the account plain may not use /var/run/docker.sock" in error.message
    assert "usermod -aG docker plain" in (error.hint or "")


def test_socket_trouble_of_an_account_without_a_shell(reach: Any, fault_lab: Any) -> None:
    fault_lab.nodes["n1"].sshd_option("MaxSessions 0")
    reach().engine("n1").containers()  # no session is needed for anything
    error = failure(reach(socket="/run/no-such.sock"))
    assert "doesn't say why" in error.message
    fault_lab.nodes["n1"].sshd_option("AllowStreamLocalForwarding no")
    assert "sshd forbids root" in failure(reach()).message


def test_socket_that_is_not_an_engine(reach: Any) -> None:
    """dockerd's own socket for metrics speaks HTTP, but not as an engine."""
    with pytest.raises(EngineError, match="isn't a Docker Engine") as caught:
        reach(socket="/run/docker/metrics.sock").engine("n1")
    assert "docker_socket" in (caught.value.hint or "")


def test_login_refused_names_user_and_keys(reach: Any, tmp_path: Path) -> None:
    import subprocess

    key = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    error = failure(reach(identity_file=str(key)))
    assert "login as root@" in error.message
    assert str(key) in error.message
    assert "SHA256:" in error.message
    assert "authorized_keys" in (error.hint or "")


def test_login_as_nobody_known(reach: Any) -> None:
    assert "login as stranger@" in failure(reach(user="stranger")).message


def test_key_file_that_is_missing(reach: Any, tmp_path: Path) -> None:
    assert f"the key file {tmp_path}/none isn't there" in failure(reach(identity_file=f"{tmp_path}/none")).message


def test_key_file_that_is_encrypted(reach: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True)
    error = failure(reach(identity_file=str(key)))
    assert "is encrypted and no agent holds it" in error.message
    assert "ssh-add" in (error.hint or "")


def test_key_file_that_is_no_key(reach: Any, tmp_path: Path) -> None:
    key = tmp_path / "shopping-list"
    key.write_text("milk\n")
    assert "isn't a private key" in failure(reach(identity_file=str(key))).message


def test_a_failure_is_remembered(reach: Any, fault_lab: Any) -> None:
    fault_lab.nodes["n1"].freeze()
    connections = reach()
    first = failure(connections)
    started = time.monotonic()
    second = failure(connections)
    assert time.monotonic() - started < 1  # a try takes 1.5 s
    assert second.message == first.message
    assert second is not first


# -- host keys ---------------------------------------------------------------------------------------------------------


def logins(node: Any) -> int:
    """How many authentication attempts sshd has logged."""
    text = Path(node.log("sshd")).read_text(errors="replace")
    return sum(word in line for line in text.splitlines() for word in ("Accepted", "Failed", "userauth"))


def test_unknown_host_key_is_refused_before_authentication(reach: Any, fault_lab: Any, tmp_path: Path) -> None:
    node = fault_lab.nodes["n1"]
    connections = reach(known_hosts=str(tmp_path / "sub" / "known_hosts"))
    before = logins(node)
    error = failure(connections)
    assert isinstance(error, HostKeyError)
    assert "isn't known" in error.message
    assert "SHA256:" in error.message
    assert error.hint == "wsctl node trust n1"
    assert logins(node) == before

    key = connections.scan_host_key("n1")
    assert key.status == "new"
    assert key.fingerprint in error.message
    connections.trust("n1", key)
    assert (tmp_path / "sub").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "sub" / "known_hosts").stat().st_mode & 0o777 == 0o600
    reach(known_hosts=str(tmp_path / "sub" / "known_hosts")).engine("n1").containers()


def test_changed_host_key_shows_both_fingerprints(reach: Any, fault_lab: Any, tmp_path: Path) -> None:
    node = fault_lab.nodes["n1"]
    known = tmp_path / "known_hosts"
    known.write_text(f"{node.address} {node.host_key}\nother {node.host_key}\n")
    old = reach(known_hosts=str(known)).scan_host_key("n1")
    node.rotate_host_key()
    connections = reach(known_hosts=str(known))
    before = logins(node)
    error = failure(connections)
    assert isinstance(error, HostKeyError)
    assert "changed" in error.message
    assert old.fingerprint in error.message
    key = connections.scan_host_key("n1")
    assert key.status == "changed"
    assert key.fingerprint in error.message
    assert key.fingerprint != old.fingerprint
    assert logins(node) == before

    connections.trust("n1", key)
    reach(known_hosts=str(known)).engine("n1").containers()
    lines = known.read_text().splitlines()
    assert lines[0].startswith("# replaced by wsctl node trust: ")
    assert lines[1].startswith("other ")
    assert lines[2] == key.line


def test_host_with_several_keys_shows_the_one_that_is_known(reach: Any, fault_lab: Any, tmp_path: Path) -> None:
    import subprocess

    node = fault_lab.nodes["n1"]
    key = Path(node.folder) / f"extra_ecdsa_{time.time_ns()}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
    try:
        node.sshd_option(f"HostKey /run/lab/{key.name}")
        known = tmp_path / "known_hosts"
        public = " ".join(key.with_name(f"{key.name}.pub").read_text().split()[:2])
        known.write_text(f"{node.address} {public}\n")
        reach(known_hosts=str(known)).engine("n1").containers()
        known.write_text(f"{node.address} {node.host_key}\n")
        reach(known_hosts=str(known)).engine("n1").containers()
    finally:
        node.sshd_reset()
        key.unlink()
        key.with_name(f"{key.name}.pub").unlink()
