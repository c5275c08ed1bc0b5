# ruff: noqa: TID251 - the floor is docker-py itself
"""The measured program of `gets`: connect, then ask about fifty containers; prints both times as JSON.

`python -m bench.ask wsctl INVENTORY:NODE IDS` or `… docker-py URL IDS`. Responsible for: one run of one side. Not
responsible for: what is compared with what (`gets`).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Ask = Callable[[str], object]
Connect = Callable[[], Ask]


def wsctl(where: str) -> Connect:
    """The transport as wsctl's commands use it."""
    from wsctl.inventory import load
    from wsctl.transport import Connections, lazy

    lazy.load_paramiko()
    lazy.load_docker()
    import wsctl.transport.remote
    import wsctl.transport.sessions
    import wsctl.transport.ssh  # noqa: F401

    path, _, node = where.rpartition(":")
    inventory = load(Path(path))

    def connect() -> Ask:
        connections = Connections(inventory.nodes, cluster=inventory.cluster)
        return connections.engine(node).container

    return connect


def docker_py(where: str) -> Connect:
    """DockerClient as its documentation shows it; it asks for the engine's version when it is made."""
    import docker

    def connect() -> Ask:
        return docker.DockerClient(base_url=where, version="auto").api.inspect_container

    return connect


def identity(answer: object) -> object:
    """The id in wsctl's `Container`, or in docker-py's dictionary."""
    return answer.get("Id") if isinstance(answer, dict) else getattr(answer, "id", None)


KINDS: dict[str, Callable[[str], Connect]] = {"wsctl": wsctl, "docker-py": docker_py}


def main(kind: str, where: str, ids_file: str) -> None:
    first, *ids = json.loads(Path(ids_file).read_text())
    connect = KINDS[kind](where)
    began = time.perf_counter()
    ask = connect()
    connected = time.perf_counter()
    ask(first)
    warm = time.perf_counter()
    answers = [ask(one) for one in ids]
    ended = time.perf_counter()
    if [identity(answer) for answer in answers] != ids:
        raise SystemExit("not every answer is about the container that was asked about")
    print(json.dumps({"connect": connected - began, "gets": ended - warm}))


if __name__ == "__main__":
    main(*sys.argv[1:])
