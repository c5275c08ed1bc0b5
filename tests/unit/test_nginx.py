"""Files for Nginx: replaced in one step or not at all; the check runs nginx on what will be served, and nothing else.

A script stands in for nginx; the real one reads our maps in tests/integration/test_routes_nginx.py.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.rights import as_nobody
from wsctl.errors import Refused
from wsctl.nginx import MapRefused, check, replace_file


def fake_nginx(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called nginx in front of all others."""
    folder.mkdir(exist_ok=True)
    program = folder / "nginx"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_file_is_written_once_and_readable_by_nginx(tmp_path: Path) -> None:
    path = tmp_path / "map.conf"
    assert replace_file(path, "one\n") is True
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("one\n", 0o644)
    inode = path.stat().st_ino
    assert replace_file(path, "one\n") is False
    assert path.stat().st_ino == inode, "a file that is current isn't touched"
    assert replace_file(path, "two\n") is True
    assert path.read_text() == "two\n"
    assert os.listdir(tmp_path) == ["map.conf"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "map.conf"
    texts = ["a" * 100_000, "b" * 100_000]
    replace_file(path, texts[0])
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 30):
        replace_file(path, texts[number % 2])
    done.set()
    reader.join()
    assert seen <= set(texts)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"cannot write .*No such file") as caught:
        replace_file(tmp_path / "nowhere" / "map.conf", "x")
    assert str(tmp_path / "nowhere") in str(caught.value.hint)


def test_a_folder_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    with as_nobody() as folder:
        path = folder / "map.conf"
        path.write_text("old")
        folder.chmod(0o555)
        with pytest.raises(Refused, match="what was there is untouched"):
            replace_file(path, "new")
        assert path.read_text() == "old"


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(Refused):
        replace_file(path, "x")
    assert os.listdir(tmp_path) == ["folder"]


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
