"""Installing Debian packages when several processes want them at once; no package is touched."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lab import packages


def test_one_installs_and_the_others_find_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: set[str] = set()
    ran: list[str] = []

    def run(argv: list[str], **more: Any) -> None:
        assert packages.POLICY.exists(), "a service could start"
        ran.append(argv[1])
        time.sleep(0.05)
        installed.update(argv if argv[1] == "install" else ())

    monkeypatch.setattr(packages, "LOCK", tmp_path)
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy")
    monkeypatch.setattr(packages, "run", run)
    monkeypatch.setattr(packages, "missing", lambda wanted: [name for name in wanted if name not in installed])
    said: list[str] = []
    threads = [threading.Thread(target=packages.ensure_some, args=((name,), said.append)) for name in "aab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(said) == ["installing Debian packages: a", "installing Debian packages: b"]
    assert ran == ["update", "install"] * 2
    assert not packages.POLICY.exists()
