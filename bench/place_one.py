"""`place-one`: a new user's container, from the command line to its end.

Responsible for: what is compared, and its gate. Not responsible for: the rig.
"""

from __future__ import annotations

import itertools

from bench.measure import Series, alternate, timed
from bench.report import Gate, Row, row
from bench.rig import FLOOR_PORTS, USERS, Rig

ROUNDS = 15
GATE = Gate(0.8, "×")


def run(rig: Rig, rounds: int | None) -> list[Row]:
    """`wsctl place USER` against `docker -H ssh://NODE run -d`, whole processes.

    The same: nodes, image, limits, capabilities, log options, labels, one published port, one new bind-mounted folder
    (the containers are compared afterwards); SSH with one key pair and strict host key checking, a new connection per
    command, no ControlMaster (docker's own default); ssh settings given, not looked for. Neither side waits for the
    program in the container (`ready: null`); a second row has wsctl wait, which docker can't do. wsctl does more: it
    chooses among three nodes, takes a lease, and commits the placement to SQLite on disk. docker has its node chosen.
    """
    shape = rig.shape
    plain, probing = rig.inventory("one"), rig.inventory("one-ready", ready="{http: /, timeout: 30s}")
    nodes = itertools.cycle(rig.addresses.items())
    ports = itertools.cycle(FLOOR_PORTS)
    compared = False

    def place(number: str) -> float:
        return timed([rig.wsctl, "place", "-i", plain, f"{USERS}a-{number}"], rig.env)

    def place_ready(number: str) -> float:
        return timed([rig.wsctl, "place", "-i", probing, f"{USERS}b-{number}"], rig.env)

    def docker(number: str) -> float:
        nonlocal compared
        user, (node, address) = f"{USERS}c-{number}", next(nodes)
        flags = shape.flags(f"ws-u-{user}", address, next(ports), rig.source(user))
        spent = timed(["docker", "-H", f"ssh://{node}", "run", "-d", *flags], rig.env)
        if not compared:
            rig.shape_of(f"ws-u-{user}").must_equal(shape)
            compared = True
        return spent

    series: Series = alternate(
        "place-one",
        {"wsctl": place, "docker": docker, "wsctl, ready": place_ready},
        rounds or ROUNDS,
        after=rig.clean,
    )
    return [
        row("`wsctl place` of a new user / `docker -H ssh://… run -d`", series, "wsctl", "docker", gate=GATE),
        row("… and wsctl waits until the workspace answers HTTP", series, "wsctl, ready", "docker"),
    ]
