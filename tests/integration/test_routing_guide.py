"""The guides about the gateway to the letter: every inventory in them on a real Nginx, every location, the token.

A missing nginx fails these tests. `WSCTL_SKIP_LAB=1` skips them, visibly.
"""

from __future__ import annotations

import hmac
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.nginxes import check, free_port
from wsctl.endpoint import bearer, sign
from wsctl.inventory import load
from wsctl.routes import Mode, Route, render_map
from wsctl.snippet import render_snippet

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
REST = "version: 1\ncluster: guide\nworkspace: {image: a}\nnodes: {n1: {address: 10.0.0.11}}\n"


def blocks(guide: str, kind: str, having: str) -> list[str]:
    text = (GUIDES / guide).read_text()
    return [
        found for found in re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if having in found
    ]


INVENTORIES = [block for guide in ("routing.md", "gateway.md") for block in blocks(guide, "yaml", "gateway:")]


def test_every_mode_has_its_example(tmp_path: Path) -> None:
    modes = set()
    for number, block in enumerate(INVENTORIES):
        path = tmp_path / f"{number}.yaml"
        path.write_text(REST + block)
        modes.add(load(path).gateway.mode)
    assert modes == set(Mode)


@pytest.mark.parametrize("block", INVENTORIES, ids=range(len(INVENTORIES)))
def test_each_inventory_of_the_guides_makes_what_a_real_nginx_takes(tmp_path: Path, block: str) -> None:
    (tmp_path / "inventory.yaml").write_text(REST + block)
    argv = [sys.executable, "-m", "wsctl", "render-gateway", "--check", "-i", str(tmp_path / "inventory.yaml")]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("location", ["/wake", "/auth"])
def test_the_locations_of_the_guides_fit_into_the_server(tmp_path: Path, location: str) -> None:
    guide, key = {"/wake": ("routing.md", "wake"), "/auth": ("gateway.md", "auth_request")}[location]
    (text,) = blocks(guide, "text", f"location = {location} ")
    path = tmp_path / "inventory.yaml"
    path.write_text(f"{REST}gateway: {{{key}: {location}}}\n")
    settings = load(path).gateway
    (tmp_path / "map.conf").write_text(render_map([Route("alice", "10.0.0.11", 20000)], 1, settings))
    (tmp_path / "server.conf").write_text(render_snippet(settings) + text)
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ include {tmp_path}/map.conf; "
        f"server {{ listen 127.0.0.1:{free_port()}; include {tmp_path}/server.conf; }} }}"
    )
    checked = check(tmp_path, config)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_a_token_made_as_the_guide_says_is_one() -> None:
    (code,) = blocks("routing.md", "python", "hmac")
    names: dict[str, object] = {"hmac": hmac, "key": b"k" * 32, "user": "alice", "expires": 2_000_000_000}
    exec(code, names)
    assert names["token"] == sign(b"k" * 32, "alice", 2_000_000_000)
    assert bearer(b"k" * 32, str(names["token"]), 1) == "alice"
