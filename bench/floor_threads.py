# ruff: noqa: TID251 - the floor is docker-py itself
"""The floor of `place-60`, a program of its own: containers made and started by docker-py in threads, nothing else.

Responsible for: being as quick as docker-py allows. Not responsible for: what the containers are; that comes in a file.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    # docker-py imports it if it is there, only for its ssh:// client.
    sys.modules["paramiko"] = None  # type: ignore[assignment]
    from docker import APIClient

    job = json.loads(Path(path).read_text())
    clients = {node: APIClient(base_url=f"unix://{sock}", version="auto") for node, sock in job["sockets"].items()}

    def make(one: dict[str, Any]) -> None:
        client = clients[one["node"]]
        made = client.create_container_from_config(one["body"], one["name"])  # type: ignore[no-untyped-call]
        client.start(made["Id"])

    with ThreadPoolExecutor(job["threads"]) as pool:
        list(pool.map(make, job["containers"]))


if __name__ == "__main__":
    main(sys.argv[1])
