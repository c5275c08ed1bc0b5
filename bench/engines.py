"""Many Docker Engines in one process, a socket each: `python -m bench.engines FOLDER NODES USERS CLUSTER`.

All containers run and are idle. They answer what deciding about the idle asks, as Docker 20.10 does, byte by byte
ready-made; each request is counted and the counts are at `/bench/counts` of the first socket. Prints `ready`.
Responsible for: that. Not responsible for: any measurement (`reap`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

FIRST_PORT = 20000


def container_id(node: int, number: int) -> str:
    return f"{node:04x}{number:08x}".ljust(64, "0")


def user_name(node: int, number: int) -> str:
    return f"user-{node:02}-{number:03}"


def _listing(node: int, users: int, cluster: str) -> bytes:
    items = [
        {
            "Id": container_id(node, n),
            "Names": [f"/ws-u-{user_name(node, n)}"],
            "Image": "bench:1",
            "ImageID": "sha256:" + "5" * 64,
            "Command": "httpd -f -p 8080",
            "Created": 1700000000,
            "Ports": [{"IP": "127.0.0.1", "PrivatePort": 8080, "PublicPort": FIRST_PORT + n, "Type": "tcp"}],
            "Labels": {
                "io.wsctl.cluster": cluster,
                "io.wsctl.user": user_name(node, n),
                "io.wsctl.generation": "1",
                "io.wsctl.spec": "0" * 12,
            },
            "State": "running",
            "Status": "Up 3 hours",
            "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "7" * 64, "IPAddress": "172.17.0.2"}}},
            "Mounts": [
                {"Type": "bind", "Source": f"/srv/workspaces/{user_name(node, n)}", "Destination": "/workspace"}
            ],
        }
        for n in range(users)
    ]
    return json.dumps(items).encode()


INFO = json.dumps(
    {"ServerVersion": "20.10.24", "NCPU": 32, "MemTotal": 64 << 30, "SystemTime": "2026-01-01T00:00:00.123456789Z"}
).encode()
VERSION = json.dumps({"Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}).encode()
STATS = json.dumps(
    {"networks": {"eth0": {"tx_bytes": 1000}}, "cpu_stats": {"cpu_usage": {"total_usage": 5_000_000}}}
).encode()
INSPECTED = json.dumps({"State": {"Running": True, "Status": "running"}, "ExecIDs": None}).encode()


class Engines:
    """All of them."""

    def __init__(self, users: int, cluster: str) -> None:
        self.users = users
        self.cluster = cluster
        self.counts: Counter[str] = Counter()
        self.listings: dict[int, bytes] = {}

    async def serve(self, node: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1].decode().partition("?")[0]
                kind, body = self._answer(node, path)
                self.counts[kind] += 1
                writer.write(
                    b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, node: int, path: str) -> tuple[str, bytes]:
        if path.endswith("/containers/json"):
            return "list", self.listings[node]
        if path.endswith("/stats"):
            return "stats", STATS
        if "/containers/" in path:
            return "inspect", INSPECTED
        if path.endswith("/info"):
            return "info", INFO
        if path.endswith("/_ping"):
            return "ping", b"OK"
        if path == "/bench/counts":
            return "asked", json.dumps(self.counts).encode()
        return ("image", b"{}") if "/images/" in path else ("version", VERSION)


async def main(folder: Path, nodes: int, users: int, cluster: str) -> None:
    engines = Engines(users, cluster)
    for node in range(nodes):
        engines.listings[node] = _listing(node, users, cluster)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node: int = node) -> None:
            await engines.serve(node, reader, writer)

        await asyncio.start_unix_server(serve, str(folder / f"{node}.sock"))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
