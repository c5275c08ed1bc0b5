"""The few Docker API calls the lab itself needs, on a node's socket, without a client program.

Not here: anything wsctl does with an engine. The lab shares no code with the program it tests.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, BinaryIO

from lab.shell import LabError


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(path: Path, url: str, timeout: float = 2) -> tuple[int, bytes]:
    """Status and body of a GET."""
    return _request(path, "GET", url, None, {}, timeout)


def _request(
    path: Path,
    method: str,
    url: str,
    body: BinaryIO | None,
    headers: dict[str, str],
    timeout: float,
) -> tuple[int, bytes]:
    connection = _Connection(path, timeout)
    try:
        connection.request(method, url, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def image_id(path: Path, name: str) -> str:
    """The id of an image, or nothing when the engine doesn't have it."""
    status, body = get(path, f"/images/{name}/json", timeout=10)
    return str(json.loads(body)["Id"]) if status == 200 else ""


def load(path: Path, archive: Path) -> None:
    """What `docker load` does."""
    with archive.open("rb") as file:
        headers = {
            "Content-Type": "application/x-tar",
            "Content-Length": str(archive.stat().st_size),
        }
        status, body = _request(path, "POST", "/images/load?quiet=1", file, headers, 120)
    # An error in the middle comes as a line of JSON in an answer that began with 200.
    if status != 200 or b'"error"' in body:
        raise LabError(f"the engine refused the workspace image: {body.decode(errors='replace')}")


def containers(path: Path) -> list[dict[str, Any]]:
    """All containers, also stopped ones."""
    status, body = get(path, "/containers/json?all=1", timeout=10)
    if status != 200:
        raise LabError(f"the engine can't list containers: {body.decode(errors='replace')}")
    found: list[dict[str, Any]] = json.loads(body)
    return found


def inspect(path: Path, container: str) -> dict[str, Any]:
    """What the engine knows of one container, which isn't always what it lists."""
    status, body = get(path, f"/containers/{container}/json", timeout=10)
    if status != 200:
        raise LabError(f"the engine can't inspect {container}: {body.decode(errors='replace')}")
    found: dict[str, Any] = json.loads(body)
    return found
