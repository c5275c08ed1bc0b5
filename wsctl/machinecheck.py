"""Checking the machine under a node's engine: disk, inodes, rsync, sshd's limits.

Responsible for: one script that asks all of it in one go, and what its figures mean. Not responsible for: the engine
(`nodecheck`), nor for running commands (`transport`). A key that may not run commands is fine: then these are unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from wsctl.errors import NodeError
from wsctl.findings import Check, CheckStatus
from wsctl.model import Node
from wsctl.ports import Commands
from wsctl.text import clean, human_bytes

FULL = (85, 97)
"""Percent of space or inodes in use from which it is a WARN, and a FAIL."""

SESSIONS, STARTUPS = 4, 10
"""What sshd should at least allow: sessions of a connection, and connections that haven't logged in yet."""

_SCRIPT = r"""
LC_ALL=C; export LC_ALL; root=$1
if [ -d "$root" ]; then echo "==root there"; else echo "==root absent"; fi
while [ ! -d "$root" ] && [ "$root" != / ]; do root=$(dirname -- "$root"); done
echo "==disk $(df -Pk -- "$root" 2>/dev/null | tail -n 1)"
echo "==inodes $(df -Pi -- "$root" 2>/dev/null | tail -n 1)"
echo "==rsync $(rsync --version 2>/dev/null | head -n 1)"
echo "==getfattr $(command -v getfattr)"
if [ "$(id -u)" = 0 ]; then
  sshd=$(command -v sshd || echo /usr/sbin/sshd)
  "$sshd" -T 2>/dev/null | grep -iE '^(maxsessions|maxstartups) ' | while read -r line; do echo "==sshd $line"; done
  echo "==asked"
fi
echo "==end"
"""


def check_machine(node: Node, commands: Commands) -> list[Check]:
    """The checks that need a shell; one line that says so if there is none."""
    try:
        code, said = commands.run(["sh", "-c", _SCRIPT, "sh", node.host_root])
    except NodeError as error:
        return [_unknown(node, error.reason)]
    found = dict(re.findall(r"^==(root|disk|inodes|rsync|getfattr|end|asked|sshd max\w+) ?(.*)$", said, re.M | re.I))
    if "end" not in found:
        last = clean(said.strip().rpartition("\n")[2][:200])
        return [_unknown(node, f"exit code {code}" + (f": {last}" if last else ""))]
    checks = [_check_disk(node, found), _check_inodes(node, found), _check_rsync(node, found)]
    return checks if node.is_local else [*checks, _check_sshd(node, found)]


def _unknown(node: Node, why: str) -> Check:
    detail = f"disk, inodes, rsync and sshd's limits are unknown, no commands can be run there: {why}"
    return Check("machine", CheckStatus.WARN, detail, f"df -h {node.host_root}   # on {node.name}")


def _figures(text: str) -> tuple[int, int, int] | None:
    """Total, used and free of a line of `df -P`."""
    found = re.search(r" (\d+) +(\d+) +(-?\d+) +(?:\d+%|-) /", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found is not None else None


def _check_disk(node: Node, found: Mapping[str, str]) -> Check:
    figures = _figures(found.get("disk", ""))
    if figures is None:
        return Check("disk", CheckStatus.WARN, f"the size of {node.host_root} is unknown", f"df {node.host_root}")
    total, used, free = figures
    status, percent = _verdict(used, free)
    text = f"{node.host_root}: {human_bytes(free * 1024)} free of {human_bytes(total * 1024)} ({percent} % used)"
    if found.get("root") == "absent":
        text += "; it isn't there yet, the engine makes it"
    fix = None if status is CheckStatus.OK else f"wsctl node cordon {node.name}   # then make room in {node.host_root}"
    return Check("disk", status, text, fix)


def _check_inodes(node: Node, found: Mapping[str, str]) -> Check:
    figures = _figures(found.get("inodes", ""))
    if figures is None or figures[0] == 0:
        return Check("inodes", CheckStatus.OK, f"the file system of {node.host_root} doesn't count them")
    total, used, free = figures
    status, percent = _verdict(used, free)
    fix = (
        None if status is CheckStatus.OK else f"find {node.host_root} -xdev -printf '%h\\n' | sort | uniq -c | sort -n"
    )
    return Check("inodes", status, f"{free} free of {total} ({percent} % used)", fix)


def _verdict(used: int, free: int) -> tuple[CheckStatus, int]:
    """By what may still be used: what is reserved for root is neither used nor free."""
    percent = round(100 * used / max(1, used + max(0, free)))
    if percent >= FULL[1]:
        return CheckStatus.FAIL, percent
    return CheckStatus.WARN if percent >= FULL[0] else CheckStatus.OK, percent


def _check_rsync(node: Node, found: Mapping[str, str]) -> Check:
    version = re.match(r"rsync +version +(\S+)", found.get("rsync", ""))
    if node.storage == "shared" and version is None:
        return Check("rsync", CheckStatus.OK, "not there, and not needed: the storage is shared")
    if version is None:
        why = "not there: users' files are copied by tar, while they can't work, and standby copies aren't made"
        return Check("rsync", CheckStatus.WARN, why, "apt install rsync")
    text = f"rsync {clean(version[1])}"
    if not found.get("getfattr") and node.storage != "shared":
        text += "; without getfattr (apt install attr), attributes are copied, but at most compared by --verify full"
    return Check("rsync", CheckStatus.OK, text)


def _check_sshd(node: Node, found: Mapping[str, str]) -> Check:
    values = {name.lower().removeprefix("sshd "): value for name, value in found.items() if name.startswith("sshd ")}
    sessions = re.fullmatch(r"(\d+)", values.get("maxsessions", ""))
    startups = re.match(r"(\d+)", values.get("maxstartups", ""))
    if sessions is None or startups is None:
        why = "sshd doesn't say" if "asked" in found else "only root may ask"
        return Check("sshd", CheckStatus.WARN, f"its limits are unknown: {why}", f"sudo sshd -T   # on {node.name}")
    text = f"MaxSessions {sessions[1]}, MaxStartups {values['maxstartups']}"
    if int(sessions[1]) < SESSIONS or int(startups[1]) < STARTUPS:
        fix = f"MaxSessions {SESSIONS}, MaxStartups {STARTUPS}:30:100 or more in sshd_config"
        return Check("sshd", CheckStatus.WARN, text, fix)
    return Check("sshd", CheckStatus.OK, text)
