"""The check runs nginx on what will be served, and nothing else.

A script stands in for nginx; the real one reads our maps in tests/integration/test_routes_nginx.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsctl.nginx import MapRefused, check


def fake_nginx(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called nginx in front of all others."""
    folder.mkdir(exist_ok=True)
    program = folder / "nginx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_check_has_nginx_read_both_texts_in_a_configuration_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'cd "$4" && cat nginx.conf map.conf snippet.conf > {tmp_path}/seen; echo "$@" > {tmp_path}/words'
    fake_nginx(tmp_path / "bin", monkeypatch, script)
    check("THE MAP", "THE SNIPPET")
    seen = (tmp_path / "seen").read_text()
    assert "THE MAP" in seen
    assert "THE SNIPPET" in seen
    assert "listen unix:" in seen, "no port is needed"
    words = (tmp_path / "words").read_text().split()
    assert words[:2] == ["-t", "-q"]
    assert not Path(words[3]).exists(), "the folder is gone"


def test_what_nginx_says_is_told_without_our_temporary_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nginx(tmp_path / "bin", monkeypatch, 'echo "nginx: [emerg] unexpected \\"}\\" in $4/map.conf:3" >&2; exit 1')
    with pytest.raises(MapRefused) as caught:
        check("}", "")
    assert caught.value.exit_code == 5
    assert caught.value.code == "map-refused"
    assert caught.value.details["nginx"] == 'nginx: [emerg] unexpected "}" in map.conf:3'


def test_what_nginx_says_in_odd_bytes_is_no_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nginx(tmp_path / "bin", monkeypatch, "printf '\\377\\376 bad' >&2; exit 1")
    with pytest.raises(MapRefused, match="bad"):
        check("x", "y")
