"""What a loaded inventory is: frozen values, resolved and complete.

Responsible for: the shape that the rest of wsctl sees. Not responsible for: how it is read (`load`), found (`find`) or
shown (`show`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from wsctl.errors import NotFound
from wsctl.health import Rules
from wsctl.model import Node, Strategy, WorkspaceSpec
from wsctl.routes import GatewayHost, GatewaySettings
from wsctl.standbys import Backups, DataLoss, FailoverPolicy, FailoverRules


@dataclass(frozen=True, slots=True)
class StateSettings:
    """Where placements are recorded. A SQLite path inside `url` is absolute; the password is never part of it."""

    url: str
    password_file: str | None = None


@dataclass(frozen=True, slots=True)
class ReapSettings:
    """How `reap-idle` goes about it. Who will be stopped is told to `hook` (a command) or `url` `notice_s` seconds
    before; `users` have limits of their own (seconds; None: never)."""

    notice_s: float = 600.0
    hook: tuple[str, ...] | None = None
    url: str | None = None
    timeout_s: float = 10.0
    users: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def gives_notice(self) -> bool:
        """Whether there is anything to tell."""
        return self.hook is not None or self.url is not None


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """The repository of backups as restic on the nodes names it (None: there is none), where its secrets are here, and
    which snapshots stay (`snapshots.Keep`: last, daily, weekly, monthly)."""

    repository: str | None = None
    password_file: str | None = None
    env_file: str | None = None
    keep: tuple[int, int, int, int] = (3, 14, 8, 12)

    @property
    def is_directory(self) -> bool:
        """Whether it is a path on each node, where each may have another one."""
        return self.repository is not None and self.repository.startswith("/")


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How nodes are watched over, how long one that misbehaves is set aside, and where the wake hook is answered.
    `is_wanted`: the inventory speaks of it, so somebody should be watching."""

    rules: Rules = field(default_factory=Rules)
    set_aside_s: float = 60.0
    wake: str | None = None
    is_wanted: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class MoveSettings:
    """How users' files are moved: the source keeps its copy for `keep_s` seconds; `bandwidth` in bytes a second (None:
    no limit); all content is compared, or that of a sample."""

    keep_s: float = 86_400.0
    bandwidth: int | None = None
    compress: bool = False
    verify_full: bool = False


@dataclass(frozen=True, slots=True)
class FailoverSettings:
    """What happens when a node dies, and how standby copies are kept up to date. `policy` says who decides, `loss` and
    `max_age_s` how far that may go (see `standbys`). A copy is made anew when it is `every_s` seconds old, `parallel`
    at once, each with at most `bwlimit` bytes a second (None: no limit)."""

    policy: FailoverPolicy = FailoverPolicy.MANUAL
    loss: DataLoss = DataLoss.NEVER
    max_age_s: float | None = None
    every_s: float = 300.0
    parallel: int = 2
    bwlimit: int | None = None

    def rules(self, now: datetime, *, accept_loss: bool = False, backups: Backups | None = None) -> FailoverRules:
        """How far a failover that begins now may go; with `accept_loss` further than the inventory says."""
        loss = DataLoss.ACCEPT if accept_loss else self.loss
        return FailoverRules(now, loss, self.max_age_s, backups or Backups())


@dataclass(frozen=True, slots=True)
class Inventory:
    """One cluster as its operator described it.

    `classes` always has `default`; `nodes` and `gateway_hosts` are sorted by name; request ids are forgotten after
    `requests_keep_s` seconds. `origins` says for each node where in the file it is defined (`file:line:column`);
    `warnings` holds what is allowed but probably not meant. Where it came from doesn't make two inventories different,
    so those are left out of comparisons.
    """

    path: Path = field(compare=False)
    cluster: str
    state: StateSettings
    coordination: str | None
    coordination_password_file: str | None
    classes: Mapping[str, WorkspaceSpec]
    strategy: Strategy
    gateway: GatewaySettings
    nodes: Mapping[str, Node]
    requests_keep_s: float = 7 * 86_400.0
    reap: ReapSettings = field(default_factory=ReapSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    migrate: MoveSettings = field(default_factory=MoveSettings)
    failover: FailoverSettings = field(default_factory=FailoverSettings)
    gateway_hosts: Mapping[str, GatewayHost] = field(default_factory=dict)
    auto_apply: bool = False
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def workspace(self) -> WorkspaceSpec:
        """The class that users get when nobody names one."""
        return self.classes["default"]

    def node(self, name: str) -> Node:
        """The node called `name`; `NotFound` with a suggestion otherwise."""
        if name in self.nodes:
            return self.nodes[name]
        raise NotFound(f"no node {name!r} in {self.path}", hint=_hint(name, self.nodes, "`wsctl node ls` lists them"))

    def workspace_class(self, name: str) -> WorkspaceSpec:
        """The workspace class called `name`; `NotFound` with a suggestion otherwise."""
        if name in self.classes:
            return self.classes[name]
        known = f"known: {', '.join(sorted(self.classes))}"
        raise NotFound(f"no workspace class {name!r} in {self.path}", hint=_hint(name, self.classes, known))


def _hint(name: str, known: Mapping[str, object], otherwise: str) -> str:
    import difflib  # only mistakes need it

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise
