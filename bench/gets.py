"""`gets`: fifty different questions to one engine.

Responsible for: what is compared, and its gates. Not responsible for: the rig, nor the measured program (`ask`).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import ask
from bench.measure import Series, Side, alternate, timed_output
from bench.report import Gate, Row, row
from bench.rig import FLOOR_PORTS, USERS, Rig

ROUNDS = 7
COUNT = 50
FASTER = Gate(10, "× faster", at_most=False)
MORE = Gate(1.5, "ms more")


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`GET /containers/ID/json` of 50 containers one after the other, through three transports to one engine.

    `wsctl` is what its commands use: `Engine.container`, one streamlocal channel in one SSH connection. `docker-py
    ssh://` is DockerClient with its default, paramiko; it reads ssh config and known_hosts from a HOME made for it and
    refuses unknown host keys. The third is docker-py on the engine's local socket; the fourth, stricter, wsctl's own
    client there, which keeps its connection where docker-py opens one for each URL: the difference to it is what SSH
    costs, and it has the gate. Each round starts a process for each side that imports, connects, lets docker-py
    negotiate the version as wsctl does, asks about one more container, and then times 50 questions. So connecting is
    excluded; a row of its own includes it (imports never count).
    """
    node = next(iter(rig.addresses))
    try:
        path, inventory = rig.folder / "ids.json", rig.inventory("gets", local=rig.sockets[node])
        path.write_text(json.dumps(_make_containers(rig, node)))
        env = {**rig.env, "HOME": str(_home(rig)), "PYTHONPATH": str(Path(__file__).parents[1])}
        whole: dict[str, list[float]] = {}

        def side(name: str, kind: str, where: str) -> Side:
            def measure(number: str) -> float:
                argv: list[str | Path] = [rig.python, "-m", ask.__name__, kind, where, path]
                said = json.loads(timed_output(argv, env)[1])
                whole.setdefault(name, []).append(said["connect"] + said["gets"])
                return float(said["gets"])

            return measure

        sides = {
            "wsctl": side("wsctl", "wsctl", f"{inventory}:{node}"),
            "ssh": side("ssh", "docker-py", f"ssh://{node}"),
            "local": side("local", "docker-py", f"unix://{rig.sockets[node]}"),
            "kept": side("kept", "wsctl", f"{inventory}:here"),
        }
        series = alternate("gets", sides, rounds or ROUNDS)
    finally:
        rig.clean()
    return _rows(series, Series({name: seconds[1:] for name, seconds in whole.items()}))


def _rows(asked: Series, whole: Series) -> list[Row]:
    what = f"{COUNT} different GETs over one SSH connection"

    def faster(ours: float, floor: float) -> float:
        return floor / ours

    def more(ours: float, floor: float) -> float:
        return (ours - floor) / COUNT * 1000

    def each(seconds: float) -> str:
        return f"{seconds / COUNT * 1000:.2f} ms"

    def times(value: float) -> str:
        return f"{value:.1f} × faster"

    def difference(value: float) -> str:
        return f"{value:+.2f} ms"

    ssh, one = "docker-py's `ssh://`", "one GET of them"
    return [
        row(f"{what} / {ssh}", asked, "wsctl", "ssh", how=faster, figure=times, gate=FASTER),
        row("… connecting included, on both sides", whole, "wsctl", "ssh", how=faster, figure=times),
        row(f"{one} / wsctl's client on the local socket", asked, "wsctl", "kept", how=more, show=each,
            figure=difference, gate=MORE),
        row(f"{one} / docker-py on the local socket", asked, "wsctl", "local", how=more, show=each,
            figure=difference, gate=MORE),
    ]  # fmt: skip


def _make_containers(rig: Rig, node: str) -> list[str]:
    """One more than are asked for: the first is for warming up."""
    shape, client = rig.shape, rig.clients[node]

    def make(number: int) -> str:
        user = f"{USERS}get-{number}"
        body = shape.body(f"ws-u-{user}", rig.addresses[node], FLOOR_PORTS[number], rig.source(user))
        made = client.create_container_from_config(body, f"ws-u-{user}")  # type: ignore[no-untyped-call]
        return str(made["Id"])

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(make, range(COUNT + 1)))


def _home(rig: Rig) -> Path:
    """Where docker-py's ssh:// client looks for what OpenSSH is told by -F."""
    home = rig.folder / "ssh-home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    (home / ".ssh" / "config").write_text(rig.lab.ssh_config.read_text())
    (home / ".ssh" / "known_hosts").write_text(rig.lab.known_hosts.read_text())
    return home
