"""A bad cable: a node's frames are lost, late and out of order, each way, at random.

The node's cable is taken out of the bridge and its frames are carried by hand. That works on any kernel, also without
`sch_netem`. Whole frames with their offload headers are carried, so that nothing on either side needs another setting.
Not here: taking a cable out for good (network.py).
"""

from __future__ import annotations

import heapq
import os
import random
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import network
from lab.machine import Machine
from lab.shell import run

_SOL_PACKET, _VNET_HDR, _OUTGOING, _ALL = 263, 15, 4, 3


@contextmanager
def impaired(node: Machine, *, loss: float, jitter_s: float, seed: int = 1) -> Iterator[None]:
    """While the block runs, each frame to and from the node is lost with the chance `loss`, or late by up to
    `jitter_s` seconds."""
    bridge = network.bridge(node.number)
    near, far = f"{bridge}a{node.index}", f"{bridge}b{node.index}"
    batch = [
        f"link add name {near} type veth peer name {far}",
        f"link set dev {node.link} nomaster",
        # This machine must not answer there itself: everything goes through our hands.
        f"link set dev {node.link} arp off",
        f"link set dev {near} arp off",
        f"link set dev {far} master {bridge}",
        f"link set dev {far} up",
        f"link set dev {near} up",
    ]
    run(["ip", "-batch", "-"], input="\n".join(batch) + "\n")
    for link in (node.link, near):
        with suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").write_text("1")
    ends = [_open(node.link), _open(near)]
    done_read, done_write = os.pipe()
    carrier = threading.Thread(
        target=_carry, args=(ends, done_read, loss, jitter_s, random.Random(seed)), name="cable", daemon=True
    )
    carrier.start()
    try:
        yield
    finally:
        os.close(done_write)
        carrier.join(10)
        os.close(done_read)
        for end in ends:
            end.close()
        network.delete(near)
        if network.exists(node.link):
            run(["ip", "link", "set", "dev", node.link, "arp", "on", "master", bridge])


def _open(link: str) -> socket.socket:
    """All frames of a link, with the header that says what is left to the hardware (checksums, segments)."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    sock.bind((link, _ALL))
    sock.setblocking(False)
    return sock


def _carry(ends: list[socket.socket], done: int, loss: float, jitter_s: float, chance: random.Random) -> None:
    late: list[tuple[float, int, bytes, socket.socket]] = []
    number = 0
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        waits: list[socket.socket | int] = [*ends, done]
        ready = select.select(waits, [], [], wait)[0]
        if done in ready:
            return
        for end in (one for one in ends if one in ready):
            other = ends[1] if end is ends[0] else ends[0]
            with suppress(BlockingIOError, OSError):
                while True:
                    frame, about = end.recvfrom(1 << 17)
                    if about[2] != _OUTGOING and chance.random() >= loss:
                        number += 1
                        heapq.heappush(late, (time.monotonic() + chance.uniform(0, jitter_s), number, frame, other))
        while late and late[0][0] <= time.monotonic():
            _, _, frame, other = heapq.heappop(late)
            with suppress(OSError):
                other.send(frame)
