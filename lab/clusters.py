"""Clusters of services: MariaDB Galera, Redis Cluster, and Redis behind Sentinel, as several hosts would run them.

Each member has an address of its own on the loopback (127.213.K.x), its own folder and its own cgroup, so that one of
them can be killed, paused and started like any service of the lab (`Lab.stop_service("galera2", kill=True)`). Not
here: the services that every lab has (services.py), and what is in a database.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.services import MariaDB, Redis, Service
from lab.shell import LabError, run, wait_until

GALERA_PORTS = {"mysql": 17306, "group": 17567, "increments": 17568, "transfer": 17444}
REDIS_PORT, SENTINEL_PORT = 17379, 17326
SENTINEL_SERVICE = "wsctl"


class GaleraMember(MariaDB):
    """One of three MariaDB servers of which each has all data, on `address`."""

    def __init__(self, lab_folder: Path, group: str, number: int, addresses: list[str]) -> None:
        self.name = f"galera{number}"
        super().__init__(lab_folder, group, GALERA_PORTS["mysql"])
        self.address = addresses[number - 1]
        self.addresses = addresses
        self.founds = False

    def _make_data(self) -> None:
        if self.founds:
            super()._make_data()
        else:  # the whole folder comes from another member
            (self.folder / "data").mkdir(exist_ok=True)
            shutil.chown(self.folder / "data", "mysql", "mysql")

    def command(self) -> list[str]:
        here, ports = self.address, GALERA_PORTS
        peers = ",".join(f"{address}:{ports['group']}" for address in self.addresses)
        provider = [
            f"gmcast.listen_addr=tcp://{here}:{ports['group']}",
            f"ist.recv_addr={here}:{ports['increments']}",
            "gcache.size=16M",
            # Less patient than by default, for the tests: who is silent is given up after 3 s, or at last after 8.
            "evs.keepalive_period=PT0.5S",
            "evs.inactive_check_period=PT0.5S",
            "evs.suspect_timeout=PT3S",
            "evs.inactive_timeout=PT8S",
        ]
        fixed = [
            part
            for part in super().command()
            # The founder's first statements are sent by hand: before it is ready for any, an init file would fail.
            if not part.startswith(("--init-file=", "--bind-address=", "--innodb-buffer-pool-size="))
        ]
        return [
            *fixed,
            f"--bind-address={here}",
            "--innodb-buffer-pool-size=32M",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            "--wsrep-provider=/usr/lib/galera/libgalera_smm.so",
            "--wsrep-cluster-name=wsctl-lab",
            f"--wsrep-cluster-address=gcomm://{peers}",
            f"--wsrep-node-name={self.name}",
            f"--wsrep-node-address={here}:{ports['group']}",
            f"--wsrep-sst-receive-address={here}:{ports['transfer']}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-provider-options={';'.join(provider)}",
            *(["--wsrep-new-cluster"] if self.founds else []),
        ]

    def ready(self) -> bool:
        """Whether it is part of the majority and has all data."""
        if not self.socket.exists():
            return False
        try:
            return self.status("wsrep_ready") == "ON" and self.status("wsrep_local_state_comment") == "Synced"
        except LabError:  # it doesn't listen yet
            return False

    def status(self, name: str) -> str:
        """A status variable of the server."""
        return self.sql(f"SHOW STATUS LIKE '{name}'").partition("\t")[2].strip()


class RedisMember(Redis):
    """A Redis on an address of its own: member of a Cluster, or (with `options`) something else."""

    def __init__(self, lab_folder: Path, group: str, name: str, address: str, options: list[str]) -> None:
        self.name = name
        super().__init__(lab_folder, group, REDIS_PORT)
        self.address = address
        self.options = options

    def command(self) -> list[str]:
        # Its peers must see it come from its own address: on the loopback it would be 127.0.0.1.
        own = ["--bind-source-addr", self.address, "--replica-announce-ip", self.address]
        listen = ["--bind", self.address, "--port", str(self.port), "--protected-mode", "no", *own]
        keep = ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        return ["redis-server", *listen, *keep, *self.options]

    def ready(self) -> bool:
        try:
            return self.ask("PING") == "PONG"
        except LabError:
            return False

    def ask(self, *words: str) -> str:
        """The answer to a command."""
        return run(["redis-cli", "-h", self.address, "-p", str(self.port), *words], timeout=10).stdout.strip()


class SentinelMember(RedisMember):
    """One of the sentinels that watch a Redis and its replica."""

    def __init__(self, lab_folder: Path, group: str, name: str, address: str, primary: str) -> None:
        super().__init__(lab_folder, group, name, address, [])
        self.port = SENTINEL_PORT
        self.primary = primary

    @property
    def _config(self) -> Path:
        return self.folder / "sentinel.conf"

    def prepare(self) -> None:
        if not self._config.exists():  # it writes there itself what it learns
            service = SENTINEL_SERVICE
            lines = [
                f"port {self.port}", f"bind {self.address}", f"dir {self.folder}", "protected-mode no",
                f"bind-source-addr {self.address}", f"sentinel announce-ip {self.address}",
                f"sentinel monitor {service} {self.primary} {REDIS_PORT} 2",
                f"sentinel down-after-milliseconds {service} 1000",
                f"sentinel failover-timeout {service} 4000",
            ]  # fmt: skip
            self._config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return ["redis-server", str(self._config), "--sentinel"]


class Cluster:
    """The members of one cluster; `up` starts those that don't run, `down` ends all and forgets their data."""

    def __init__(self, name: str, members: list[Service]) -> None:
        self.name = name
        self.members = {member.name: member for member in members}

    @property
    def exists(self) -> bool:
        return any(member.folder.exists() for member in self.members.values())

    def up(self) -> None:
        """Also repairs it: members that were killed come back and take part again."""
        for member in self.members.values():
            member.resume()
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(Service.start, self.members.values()))

    def down(self) -> None:
        for member in self.members.values():
            member.stop(kill=True)
            shutil.rmtree(member.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """For `state:` or `coordination:`."""
        raise NotImplementedError


class Galera(Cluster):
    """Three members; the first of them founds the cluster when none is there."""

    def up(self) -> None:
        members = [member for member in self.members.values() if isinstance(member, GaleraMember)]
        if not any(member.alive for member in members):
            self._found(members[0])
        super().up()

    @staticmethod
    def _found(first: GaleraMember) -> None:
        state = first.folder / "data" / "grastate.dat"
        with contextlib.suppress(FileNotFoundError):
            state.write_text(state.read_text().replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        first.founds = True
        try:
            first.start()
        finally:
            first.founds = False  # from now on it joins the others
        for line in first._init_sql().splitlines():
            first.sql(line.partition(" #")[0])

    def sql(self, statement: str) -> str:
        """Execute on the first member that is alive, as root."""
        alive = [m for m in self.members.values() if isinstance(m, GaleraMember) and m.alive]
        if not alive:
            raise LabError("no member of the Galera cluster runs")
        return alive[0].sql(statement)

    @property
    def url(self) -> str:
        return self.url_of("wsctl", *self.members)

    def url_of(self, database: str, *names: str) -> str:
        """For `state:`, with these members in this order."""
        hosts = (f"{_address(self.members[name])}:{GALERA_PORTS['mysql']}" for name in names)
        return f"mysql://wsctl@{','.join(hosts)}/{database}"


class RedisCluster(Cluster):
    """Three masters with a replica each."""

    def up(self) -> None:
        super().up()
        members = [member for member in self.members.values() if isinstance(member, RedisMember)]
        if "cluster_known_nodes:1\n" in members[0].ask("CLUSTER", "INFO"):
            addresses = [f"{member.address}:{REDIS_PORT}" for member in members]
            run(["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"])
        wait_until(lambda: all(_serves(member) for member in members), 30, "the Redis Cluster")

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{_address(m)}:{REDIS_PORT}" for m in self.members.values())

    def masters(self) -> list[str]:
        """The members that have slots now, by name."""
        return [m.name for m in self.members.values() if isinstance(m, RedisMember) and m.alive and _is_master(m)]


class SentinelRedis(Cluster):
    """A Redis, its replica, and three sentinels that choose which is which."""

    def up(self) -> None:
        super().up()
        sentinels = [member for member in self.members.values() if isinstance(member, SentinelMember)]
        wait_until(lambda: all(_knows_all(sentinel) for sentinel in sentinels), 30, "the sentinels")

    @property
    def url(self) -> str:
        hosts = [f"{m.address}:{m.port}" for m in self.members.values() if isinstance(m, SentinelMember)]
        return f"redis+sentinel://{','.join(hosts)}/{SENTINEL_SERVICE}"

    def primary(self) -> str:
        """The member that is the primary now, by name, as the sentinels say."""
        for member in self.members.values():
            if isinstance(member, SentinelMember):
                address = member.ask("SENTINEL", "get-master-addr-by-name", SENTINEL_SERVICE).split()[0]
                return next(m.name for m in self.members.values() if _address(m) == address)
        raise LabError("there are no sentinels")


def make(name: str, folder: Path, group: str, number: int) -> Cluster:
    """`galera`, `redis-cluster` or `redis-sentinel` of the lab with this number."""
    net = f"127.213.{number}"
    if name == "galera":
        addresses = [f"{net}.{n}" for n in (1, 2, 3)]
        return Galera(name, [GaleraMember(folder, group, n, addresses) for n in (1, 2, 3)])
    if name == "redis-cluster":
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"]
        return RedisCluster(
            name, [RedisMember(folder, group, f"cluster{n}", f"{net}.{10 + n}", options) for n in range(1, 7)]
        )
    if name == "redis-sentinel":
        follows = ["--replicaof", f"{net}.21 {REDIS_PORT}"]
        watched = [
            RedisMember(folder, group, f"watched{n}", f"{net}.{20 + n}", [] if n == 1 else follows) for n in (1, 2)
        ]
        sentinels = [SentinelMember(folder, group, f"sentinel{n}", f"{net}.{30 + n}", f"{net}.21") for n in (1, 2, 3)]
        return SentinelRedis(name, [*watched, *sentinels])
    raise LabError(f"no cluster {name!r}, only {', '.join(NAMES)}")


NAMES = ("galera", "redis-cluster", "redis-sentinel")


def _address(member: Service) -> str:
    assert isinstance(member, (GaleraMember, RedisMember))
    return member.address


def _serves(member: RedisMember) -> bool:
    with contextlib.suppress(LabError, socket.timeout):
        return "cluster_state:ok" in member.ask("CLUSTER", "INFO")
    return False


def _is_master(member: RedisMember) -> bool:
    return member.ask("ROLE").startswith("master")


def _knows_all(sentinel: SentinelMember) -> bool:
    with contextlib.suppress(LabError):
        words = sentinel.ask("SENTINEL", "master", SENTINEL_SERVICE).split("\n")
        said = dict(zip(words[::2], words[1::2], strict=False))
        return said.get("num-slaves") == "1" and said.get("num-other-sentinels") == "2" and said["flags"] == "master"
    return False
