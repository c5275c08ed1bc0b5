"""One look at all containers of a node by its shell: bytes, CPU, sessions and open connections, in one command.

Responsible for: the script, and what its lines mean. It reads what the kernel shows to everybody under `/proc` and
`/sys/fs/cgroup`, starts two processes and changes nothing. Not responsible for: which containers, nor for what follows
when there is no shell (`looking`): no user depends on one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from wsctl.ports import Commands
from wsctl.text import clean

_SHORT = 12
"""Digits of a container's id that tell it from the others of its node."""

# A process of the container whose parent isn't one is its first, or an `exec` session. In /proc/PID/net/tcp 01 is
# ESTABLISHED, addresses and ports are hex; those of the container's own loopback are nobody's visit.
_SCRIPT = r"""
LC_ALL=C; export LC_ALL
echo "==look 1"
grep -sHEm1 '[0-9a-f]{64}' /proc/[0-9]*/cgroup | awk -v ids="$*" '
function container(path,    n, i, parts, word, prefix) {
  n = split(path, parts, "/")
  for (i = 2; i <= n; i++) {
    prefix = prefix "/" parts[i]; word = parts[i]
    sub(/^docker-/, "", word); sub(/\.scope$/, "", word); word = substr(word, 1, 12)
    if (word in wanted) { group[word] = prefix; return word }
  }
  return ""
}
function sent(pid,    file, line, f, sum, found) {
  file = "/proc/" pid "/net/dev"
  while ((getline line < file) > 0) {
    if (sub(/:/, " ", line) && split(line, f, " ") >= 10 && f[1] != "lo") { sum += f[10]; found = 1 }
  }
  close(file)
  return found ? sprintf("%.0f", sum) : "-"
}
function used(path,    file, line, f, found) {
  file = "/sys/fs/cgroup/cpuacct" path "/cpuacct.usage"
  if ((getline line < file) > 0) { close(file); return line }
  file = "/sys/fs/cgroup" path "/cpu.stat"; found = "-"
  while ((getline line < file) > 0) if (split(line, f, " ") == 2 && f[1] == "usage_usec") found = f[2] "000"
  close(file)
  return found
}
function visits(file, ports,    line, f, local, own) {
  while ((getline line < file) > 0) {
    split(line, f, " "); split(f[2], local, ":")
    own = (length(local[1]) == 8 && substr(local[1], 7) == "7F") || local[1] ~ /^0+FFFF0000......7F$/
    own = own || local[1] == "00000000000000000000000001000000"
    if (f[4] == "01" && !own) ports[local[2]]++
  }
  close(file)
}
function parent(pid,    file, line, f) {
  file = "/proc/" pid "/stat"; line = ""
  getline line < file; close(file)
  sub(/^.*\) /, "", line); split(line, f, " ")
  return f[2]
}
BEGIN { n = split(ids, list, " "); for (i = 1; i <= n; i++) wanted[list[i]] = 1 }
{
  where = $0; sub(/:.*/, "", where); split(where, word, "/"); path = $0; sub(/^[^:]*:[^:]*:[^:]*:/, "", path)
  id = container(path)
  if (id != "") { home[word[3]] = id; if (!(id in some)) some[id] = word[3] }
}
END {
  for (pid in home) if (home[parent(pid)] != home[pid]) roots[home[pid]]++
  for (id in some) {
    split("", ports); visits("/proc/" some[id] "/net/tcp", ports); visits("/proc/" some[id] "/net/tcp6", ports)
    line = id " " sent(some[id]) " " used(group[id]) " " roots[id]
    for (port in ports) line = line " " port "=" ports[port]
    print line
  }
  print "==end"
}'
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel says of one container: bytes sent, CPU time (None: it doesn't say), sessions beside the
    workspace itself, and how many connections are open to each port inside."""

    tx_bytes: int | None
    cpu_ns: int | None
    execs: int
    connections: Mapping[int, int]


def look_at_node(commands: Commands, container_ids: Collection[str]) -> Mapping[str, Reading] | str:
    """The readings by container id; those of which nothing was to be seen are missing. Or why no command can be run
    there. Raises `NodeError`.
    """
    by_short = {container_id[:_SHORT]: container_id for container_id in container_ids}
    code, said = commands.run(["sh", "-c", _SCRIPT, "sh", *sorted(by_short)])
    lines = said.splitlines()
    if "==look 1" not in lines or "==end" not in lines:
        last = clean(said.strip().rpartition("\n")[2][:200])
        return f"no commands can be run there: exit code {code}" + (f": {last}" if last else "")
    found: dict[str, Reading] = {}
    for line in lines:
        short, _, rest = line.partition(" ")
        if short in by_short and (reading := _reading(rest.split(" "))) is not None:
            found[by_short[short]] = reading
    return found


def _reading(words: list[str]) -> Reading | None:
    """A line of the script; None for one that isn't one."""
    try:
        sent, used, roots, *ports = words
        visits = dict(word.split("=") for word in ports)
        return Reading(
            None if sent == "-" else int(sent),
            None if used == "-" else int(used),
            max(0, int(roots or 0) - 1),
            {int(port, 16): int(count) for port, count in visits.items()},
        )
    except ValueError:
        return None
