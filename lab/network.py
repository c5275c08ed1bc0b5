"""The lab's network: one bridge per lab, 10.213.K.0/24, and one veth pair per node.

The control side is this machine: it has an address on the bridge. A node's end of the pair lies in its network
namespace and dies with it. Not here: anything that happens inside a node.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.shell import LabError, run

NET = "10.213"
NET6 = "fd00:213"
# Docker on this machine may have set the host's FORWARD policy to DROP, and bridged frames pass
# through it too. The rule is only made then, and named so that it can be found and removed.
RULE_COMMENT = "wsctl-lab"


def bridge(number: int) -> str:
    """The lab's bridge; short, because a link's name has at most 15 characters."""
    return f"wsctl{number}"


def port(number: int, index: int) -> str:
    """The control side's end of a node's veth pair."""
    return f"wsctl{number}n{index}"


def control_address(number: int) -> str:
    """This machine, as the nodes reach it."""
    return f"{NET}.{number}.1"


def address(number: int, index: int) -> str:
    """A node."""
    return f"{NET}.{number}.{10 + index}"


def address6(number: int, index: int) -> str:
    """A node, by IPv6."""
    return f"{NET6}:{number}::{10 + index}"


@contextmanager
def machine_lock() -> Iterator[None]:
    """One at a time, whatever the lab's name and root: for choosing a subnet.

    Locking a folder that exists anyway leaves no lock file behind.
    """
    fd = os.open("/run", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def free_number(taken: set[int]) -> int:
    """A K whose subnet and link names nobody on this machine uses."""
    text = run(["ip", "-json", "address", "show"]).stdout
    used = set(taken)
    for link in json.loads(text or "[]"):
        for entry in link.get("addr_info", []):
            if str(entry.get("local", "")).startswith(f"{NET}."):
                used.add(int(entry["local"].split(".")[2]))
    for number in range(1, 250):
        if number not in used and not exists(bridge(number)):
            return number
    raise LabError("all 249 lab networks are taken: `python -m lab down` some")


def exists(link: str) -> bool:
    """Whether this machine has a link of that name."""
    return Path(f"/sys/class/net/{link}").exists()


def is_up(link: str) -> bool:
    """Whether the link is switched on (IFF_UP), whatever its other end says."""
    try:
        return bool(int(Path(f"/sys/class/net/{link}/flags").read_text(), 16) & 1)
    except OSError:
        return False


def create_bridge(number: int, owner: Path) -> bool:
    """Make the lab's bridge with our address; false when it was there. `owner` is the lab's folder.

    The folder goes into the link's alias, so that `down` finds a bridge whose lab.json is lost.
    """
    name = bridge(number)
    if exists(name):
        set_link(name, up=True)
        return False
    batch = [
        f"link add name {name} type bridge",
        f"link set dev {name} alias wsctl-lab:{owner}",
        f"address add {control_address(number)}/24 dev {name}",
        f"link set dev {name} up",
    ]
    run(["ip", "-batch", "-"], input="\n".join(batch) + "\n")
    # A machine without IPv6 is fine.
    run(["ip", "address", "add", f"{NET6}:{number}::1/64", "dev", name, "nodad"], check=False)
    _allow_forwarding(name)
    return True


def bridges_of(owner: Path) -> list[str]:
    """Every bridge that carries this lab's folder in its alias."""
    links = json.loads(run(["ip", "-json", "link", "show"]).stdout or "[]")
    return [link["ifname"] for link in links if link.get("ifalias") == f"wsctl-lab:{owner}"]


def connect(number: int, index: int, pid: int) -> None:
    """A cable between the bridge and the node whose first process is `pid`, if there is none."""
    name = port(number, index)
    if exists(name):
        delete(name)  # a leftover: its other end is in a namespace that is about to go
    batch = [
        # A machine keeps its hardware address through a reboot, and its neighbours remember it.
        f"link add name {name} master {bridge(number)} type veth"
        f" peer name eth0 address 02:d5:{number:02x}:00:00:{index:02x} netns {pid}",
        f"link set dev {name} up",
    ]
    run(["ip", "-batch", "-"], input="\n".join(batch) + "\n")


def set_link(name: str, *, up: bool) -> None:
    """Switch a link on or off."""
    run(["ip", "link", "set", "dev", name, "up" if up else "down"])


def delete(name: str) -> None:
    """Remove a link if it is there; a pair goes as a whole."""
    if exists(name):
        run(["ip", "link", "delete", "dev", name], check=False)


def delete_bridge(name: str) -> None:
    """Remove a bridge with every port on it, and its forwarding rule."""
    for link in sorted(Path(f"/sys/class/net/{name}/brif").glob("*")):
        delete(link.name)
    delete(name)
    while run(["iptables", "-w", "-C", *_rule(name)], check=False).returncode == 0:
        run(["iptables", "-w", "-D", *_rule(name)])


def _rule(name: str) -> list[str]:
    comment = ["-m", "comment", "--comment", RULE_COMMENT]
    return ["FORWARD", "-i", name, "-o", name, *comment, "-j", "ACCEPT"]


def _allow_forwarding(name: str) -> None:
    policy = run(["iptables", "-w", "-S", "FORWARD"], check=False).stdout
    if "-P FORWARD DROP" in policy:
        run(["iptables", "-w", "-I", *_rule(name)])


def alias(name: str) -> str | None:
    """A link's alias, or nothing when there is no such link."""
    try:
        return Path(f"/sys/class/net/{name}/ifalias").read_text().strip()
    except OSError:
        return None
