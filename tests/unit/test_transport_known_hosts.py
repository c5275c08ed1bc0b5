"""known_hosts files: who is known, how a key is judged, and what `trust` writes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

import pytest

from wsctl.errors import NodeError
from wsctl.transport.host_keys import HostKey, KeyStatus, fingerprint
from wsctl.transport.known_hosts import Entry, KnownHosts, parse_line, trust

A, B, C = b"key a", b"key b", b"key c"


def b64(blob: bytes) -> str:
    return base64.b64encode(blob).decode()


def hashed(name: str) -> str:
    salt = b"12345678901234567890"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{b64(salt)}|{b64(digest)}"


def known(tmp_path: Path, *lines: str) -> KnownHosts:
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return KnownHosts.load([str(path), str(tmp_path / "absent")])


def judge(found: KnownHosts, host: str = "h", port: int = 22, blob: bytes = A) -> KeyStatus:
    return found.judge(host, port, "ssh-ed25519", blob).status


@pytest.mark.parametrize(
    ("patterns", "host", "port", "status"),
    [
        ("h", "h", 22, "trusted"),
        ("H", "h", 22, "trusted"),
        ("h", "H", 22, "trusted"),
        ("x,h,y", "h", 22, "trusted"),
        ("*.lan", "h.lan", 22, "trusted"),
        ("*.lan,!h.lan", "h.lan", 22, "new"),
        ("?", "h", 22, "trusted"),
        ("hh", "h", 22, "new"),
        ("[h]:2222", "h", 2222, "trusted"),
        ("[h]:2222", "h", 22, "new"),
        ("[h]:2222", "h", 2223, "new"),
        ("h", "h", 2222, "trusted"),
        ("fd00::1", "fd00::1", 22, "trusted"),
        ("[fd00::1]:2222", "fd00::1", 2222, "trusted"),
        (hashed("h"), "h", 22, "trusted"),
        (hashed("[h]:2222"), "h", 2222, "trusted"),
        (hashed("other"), "h", 22, "new"),
        ("|1|damaged", "h", 22, "new"),
        ("|1|!!|!!", "h", 22, "new"),
    ],
)
def test_who_is_meant(tmp_path: Path, patterns: str, host: str, port: int, status: str) -> None:
    assert judge(known(tmp_path, f"{patterns} ssh-ed25519 {b64(A)}"), host, port) == status


def test_changed_and_revoked(tmp_path: Path) -> None:
    assert judge(known(tmp_path, f"h ssh-ed25519 {b64(B)}")) == KeyStatus.CHANGED
    assert judge(known(tmp_path, f"h ssh-rsa {b64(B)}")) == KeyStatus.CHANGED
    assert judge(known(tmp_path, f"h ssh-ed25519 {b64(B)}", f"h ssh-ed25519 {b64(A)}")) == KeyStatus.TRUSTED
    assert judge(known(tmp_path, f"h ssh-ed25519 {b64(A)}", f"@revoked h ssh-ed25519 {b64(A)}")) == KeyStatus.REVOKED
    assert judge(known(tmp_path, f"@revoked * ssh-ed25519 {b64(B)}")) == KeyStatus.NEW


@pytest.mark.parametrize(
    "line",
    ["", "# h ssh-ed25519 AAAA", "h ssh-ed25519", "h ssh-ed25519 !!!", "@cert-authority h ssh-ed25519 AAAA", "\0\0"],
)
def test_lines_that_say_nothing(line: str) -> None:
    assert parse_line(line) is None


def test_a_binary_file_knows_nobody(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(os.urandom(4096))
    assert judge(KnownHosts.load([str(path)])) == KeyStatus.NEW


def test_fingerprint_is_what_ssh_keygen_prints() -> None:
    blob = "AAAAC3NzaC1lZDI1NTE5AAAAIBRfW6HtKvfG8H4yoZF6Cmeaqr10iFwo+hoqQLJPo0nq"
    assert fingerprint(base64.b64decode(blob)) == "SHA256:gkd6PuxevvxBMXKc+ii+rSKPPeKQNfHF3n7crphUiCc"


def key(path: Path, blob: bytes = A, host: str = "h") -> HostKey:
    return HostKey(host, "ssh-ed25519", blob, KeyStatus.NEW, str(path))


def test_trust_makes_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    trust("n1", key(path))
    trust("n1", key(path))
    assert path.read_text() == f"h ssh-ed25519 {b64(A)}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["known_hosts"]


def test_trust_replaces_precisely_that_hosts_key_of_that_type(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    kept = [f"i ssh-ed25519 {b64(B)}", f"h ssh-rsa {b64(B)}", "# note", f"*.lan ssh-ed25519 {b64(B)}"]
    path.write_text(
        "\n".join(
            [*kept, f"h ssh-ed25519 {b64(B)}", f"h,i ssh-ed25519 {b64(C)}", f"{hashed('h')} ssh-ed25519 {b64(C)}"]
        )
    )
    path.chmod(0o644)
    trust("n1", key(path))
    lines = path.read_text().splitlines()
    assert lines[:4] == kept
    assert lines[4] == f"# replaced by wsctl node trust: h ssh-ed25519 {b64(B)}"
    assert lines[5] == f"i ssh-ed25519 {b64(C)}"
    assert lines[6].startswith("# replaced by wsctl node trust: |1|")
    assert lines[7] == f"h ssh-ed25519 {b64(A)}"
    assert path.stat().st_mode & 0o777 == 0o644
    assert judge(KnownHosts.load([str(path)])) == KeyStatus.TRUSTED
    assert judge(KnownHosts.load([str(path)]), blob=C) == KeyStatus.CHANGED


def test_trust_follows_a_link(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles"
    real.write_text("# mine\n")
    (tmp_path / "known_hosts").symlink_to(real)
    trust("n1", key(tmp_path / "known_hosts"))
    assert (tmp_path / "known_hosts").is_symlink()
    assert real.read_text().startswith("# mine\nh ")


def test_trust_that_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="can't write"):
        trust("n1", key(tmp_path / "file" / "known_hosts"))


def test_entry_of_no_pattern_matches_nothing() -> None:
    assert not Entry("", "ssh-ed25519", A).matches("h")
