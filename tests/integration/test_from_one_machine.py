"""The guide `from-one-machine`, followed on a real Nginx: hand-written blocks are handed over one by one.

A missing nginx fails this test. `WSCTL_SKIP_LAB=1` skips it, visibly.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.edges import here
from tests.integration.labsite import eventually
from tests.integration.nginxes import UpstreamServer, upstreams_of
from tests.integration.test_gateway_apply import Site

pytestmark = pytest.mark.skipif(os.environ.get("WSCTL_SKIP_LAB") == "1", reason="WSCTL_SKIP_LAB=1")


def block(user: str, upstream: UpstreamServer) -> str:
    return f"location /ws/{user}/ {{ proxy_pass http://127.0.0.1:{upstream.server_port}/; add_header X-By hand; }}\n"


def test_hand_written_blocks_are_handed_over_one_by_one(tmp_path: Path) -> None:
    with upstreams_of("alice", "ben", "carol") as ups:
        edge = here(tmp_path)
        edge.prepare()
        made = Site(tmp_path, {"here": edge})
        blocks = {user: block(user, ups[user]) for user in ("alice", "ben")}

        def reload(snippet: str) -> None:
            edge.write("snippet.conf", "".join(blocks.values()) + snippet)
            edge.sh(f"{' '.join(edge.nginx)} -t && {' '.join(edge.nginx)} -s reload")

        edge.write("snippet.conf", "".join(blocks.values()))
        edge.start()
        try:
            assert edge.get("/ws/alice/x") == (200, "alice /x")
            for user, one in ups.items():
                made.place(user, one.server_port)
            made.run("render-gateway", "--out", edge.map_file, "--check")
            reload("")
            assert edge.get("/ws/carol/x")[0] == 404, "step 2: the map alone changes nothing"
            snippet = made.run("render-gateway", "--snippet").out
            reload(snippet)
            eventually(lambda: edge.get("/ws/carol/x") == (200, "carol /x"))
            assert [ups[user].seen[-1][1].get("X-Forwarded-Prefix") for user in ("alice", "carol")] == [
                None,
                "/ws/carol",
            ]
            for user in ("alice", "ben"):
                assert edge.get(f"/ws/{user}/x") == (200, f"{user} /x"), "step 3: theirs still by hand"
                assert "X-Forwarded-Prefix" not in ups[user].seen[-1][1]
                del blocks[user]
                reload(snippet)
                eventually(lambda user=user: _prefix(edge.get(f"/ws/{user}/x"), ups[user]) == f"/ws/{user}")
            assert made.run("render-gateway", "--diff").items == []
            assert made.apply()["here"]["action"] in ("unchanged", "applied")
        finally:
            edge.stop()


def _prefix(answer: tuple[int, str], upstream: UpstreamServer) -> str | None:
    assert answer == (200, f"{upstream.user} /x")
    return upstream.seen[-1][1].get("X-Forwarded-Prefix")
