"""Targets: what the inventory and `ssh -G` say together."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsctl.errors import NodeError, NodeUnreachable
from wsctl.model import SshSettings
from wsctl.transport import ssh_config
from wsctl.transport.ssh_config import expand_proxy_command, parse_hop, resolve


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What `ssh -G` answers."""
    answer: dict[str, list[str]] = {}
    monkeypatch.setattr(ssh_config, "_ssh_g", lambda *_: answer)
    return answer


def test_without_any_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_config, "_ssh_g", lambda *_: pytest.fail("ssh -G was started"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    target = resolve("n1", "10.0.0.1", SshSettings(user="u", config=False), 1)
    assert (target.host, target.port, target.user, target.name) == ("10.0.0.1", 22, "u", "u@10.0.0.1")
    assert target.key_files[0] == str(Path("~/.ssh/id_ed25519").expanduser())
    assert target.known_hosts[0] == str(Path("~/.ssh/known_hosts").expanduser())
    assert (target.agent, target.jumps, target.named_key) == (None, (), None)


def test_the_inventory_wins(said: dict[str, list[str]]) -> None:
    said |= {
        "hostname": ["10.9.9.9"], "port": ["2200"], "user": ["cfg"], "identityfile": ["~/a", "/b"],
        "userknownhostsfile": ["/k1 /k2"], "globalknownhostsfile": ["/g"], "proxyjump": ["hop"],
    }  # fmt: skip
    plain = resolve("n1", "alias", SshSettings(), 1)
    assert (plain.host, plain.port, plain.user) == ("10.9.9.9", 2200, "cfg")
    assert plain.key_files == (str(Path("~/a").expanduser()), "/b")
    assert plain.known_hosts == ("/k1", "/k2", "/g")
    assert plain.jumps == ("hop",)
    mine = SshSettings("me", 22, "/key", "/known", "a, b@c:1")
    told = resolve("n1", "alias", mine, 1)
    assert (told.port, told.user, told.key_files, told.known_hosts) == (22, "me", ("/key",), ("/known",))
    assert told.jumps == ("a", "b@c:1")
    assert told.identities_only
    assert resolve("n1", "alias", SshSettings(proxy_jump="none"), 1).jumps == ()


def test_proxy_command_and_alias(said: dict[str, list[str]]) -> None:
    said |= {"proxycommand": ["nc %h %p 100%%"], "hostkeyalias": ["box"], "hostname": ["h"], "user": ["u"]}
    target = resolve("n1", "x", SshSettings(), 1)
    assert expand_proxy_command(target) == "nc h 22 100%"
    assert target.check_name == ("box", 22)
    said["proxycommand"] = ["x %k"]
    with pytest.raises(NodeError, match="token"):
        expand_proxy_command(resolve("n1", "x", SshSettings(), 1))
    said["proxycommand"] = ["none"]
    assert resolve("n1", "x", SshSettings(), 1).proxy_command is None


@pytest.mark.parametrize(
    ("said_agent", "expected"),
    [
        ("none", None),
        ("SSH_AUTH_SOCK", "/env"),
        ("$OTHER", "/other"),
        ("${OTHER}", "/other"),
        ("/mine", "/mine"),
        (None, "/env"),
    ],
)
def test_agent(
    said: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, said_agent: str | None, expected: str | None
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/env")
    monkeypatch.setenv("OTHER", "/other")
    if said_agent is not None:
        said["identityagent"] = [said_agent]
    assert resolve("n1", "x", SshSettings(), 1).agent == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("h", ("h", None, None)),
        ("u@h", ("h", "u", None)),
        ("u@h:22", ("h", "u", 22)),
        ("u@[fd00::1]:2200", ("fd00::1", "u", 2200)),
        ("[fd00::1]", ("fd00::1", None, None)),
        ("fd00::1", ("fd00::1", None, None)),
        ("ssh://u@h:22/", ("h", "u", 22)),
    ],
)
def test_hops(spec: str, expected: tuple[str, str | None, int | None]) -> None:
    assert parse_hop("n1", spec) == expected


@pytest.mark.parametrize("spec", ["", "u@", "h:port", ":22"])
def test_what_is_no_hop(spec: str) -> None:
    with pytest.raises(NodeUnreachable, match="jump host"):
        parse_hop("n1", spec)


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "ssh").write_text(f"#!/bin/sh\n{text}\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_ssh_is_told_user_and_port_and_no_option_as_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, 'echo "hostname $*"')
    target = resolve("n1", "-oProxyCommand=x", SshSettings(user="u", port=7), 5)
    assert target.host == "-G -l u -p 7 -- -oProxyCommand=x"


def test_ssh_that_fails_hangs_or_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, 'echo "line 3: Bad configuration option" >&2; exit 255')
    with pytest.raises(NodeUnreachable, match="line 3: Bad configuration option"):
        resolve("n1", "h", SshSettings(), 5)
    script(tmp_path, monkeypatch, "exec /bin/sleep 5")
    with pytest.raises(NodeUnreachable, match=r"no answer within 0.2 s"):
        resolve("n1", "h", SshSettings(), 0.2)
    (tmp_path / "ssh").unlink()
    assert resolve("n1", "h", SshSettings(), 5).host == "h"
