"""Files are replaced in one step or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.rights import under_permissions
from wsctl.errors import Refused
from wsctl.newfile import current, replace_file, replacing


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
    with under_permissions() as folder:
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


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.tar"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        1 / 0  # noqa: B018
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["state.tar"])


def test_what_is_replaced_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.tar"
    with replacing(path) as file:
        file.write(b"secret")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"secret", 0o600)


def test_a_file_that_cannot_be_read_is_not_an_absent_one(tmp_path: Path) -> None:
    assert current(tmp_path / "none") is None
    with pytest.raises(Refused, match="cannot read"):
        current(tmp_path)


FULL = """
import pathlib, resource, signal, sys
from wsctl.errors import Refused
from wsctl.newfile import replacing

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    with replacing(pathlib.Path(sys.argv[1])) as file:
        for _ in range(int(sys.argv[2])):
            file.write(b"x" * 1000)
except Refused as refused:
    print(refused)
"""


@pytest.mark.parametrize("writes", [1, 100])
def test_a_full_disk_is_refused_and_leaves_what_was_there(tmp_path: Path, writes: int) -> None:
    """In the last flush, or before; closing the file writes again what couldn't be written."""
    path = tmp_path / "state.tar"
    path.write_text("old")
    argv = [sys.executable, "-c", FULL, str(path), str(writes)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"cannot write {path}: File too large; what was there is untouched")
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["state.tar"])


def test_a_folder_that_cannot_be_synced_is_said_before_anything_is_written() -> None:
    with under_permissions() as folder:
        folder.chmod(0o300)
        with pytest.raises(Refused, match="what was there is untouched"):
            replace_file(folder / "map.conf", "new")
        folder.chmod(0o700)
        assert os.listdir(folder) == []


def test_a_disk_that_fails_when_all_is_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "map.conf", os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Refused, match=r"was written, but a power cut might undo it: Input/output error"):
        replace_file(path, "new")
    assert path.read_text() == "new"
