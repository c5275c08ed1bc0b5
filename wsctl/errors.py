"""The tree of errors an operator can meet, each with its exit code, its machine-readable code and a hint.

Responsible for: naming every failure that is *not* a bug. Not responsible for: printing them (`output`) or turning
them into a process exit (`cli.main`). Adapters translate foreign exceptions into these, completely and `from` the
original, so that nothing above them knows paramiko, docker, pymysql or redis.

    WsctlError                      1
    ├─ UsageError                   2   arguments that contradict each other
    ├─ InventoryError               3   every problem of the file, with file:line:column
    ├─ NotFound                     4   no such user, node or lease
    ├─ Refused                      5   a rule says no
    │   ├─ ConfirmationRequired         nobody to ask, and no --yes
    │   ├─ PlanChanged                  the world moved since the plan was shown
    │   ├─ StaleGeneration              the placement was changed by somebody else
    │   ├─ BackupDamaged                a backup or archive is cut short, edited, hostile, newer or not ours
    │   └─ AuditDamaged                 rows of the audit table were changed or removed
    ├─ LeaseHeld                    6   somebody else is acting on it
    │   └─ StartsBusy                   the node is starting as many workspaces as it may
    ├─ Unschedulable                7   no node fits, with the reason of each
    ├─ NodeError                    8
    │   ├─ NodeUnreachable              no connection: the node's state is unknown
    │   │   └─ HostKeyError             unknown or changed host key, refused before authentication
    │   ├─ GatewayError                 a gateway's machine or its Nginx said no
    │   ├─ RepositoryError              the repository of backups can't be used from there
    │   └─ EngineError                  the node's Docker Engine said no
    │       ├─ PortTaken                the port is in use on the node
    │       ├─ NameTaken                a container of that name exists
    │       ├─ ImageMissing             the image is neither there nor pullable
    │       └─ NotReady                 started, but its ready probe didn't pass in time
    ├─ PartialFailure               9   some targets failed; the others are done
    └─ BackendError                10   state or coordination can't be reached or used
        ├─ SchemaError                  the database's schema is newer or older than this program
        └─ LeaseLost                    the lease ran out or was broken while it was held
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class WsctlError(Exception):
    """A failure that an operator can act upon. `message` says what and why, `hint` what to type next."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, object] = dict(details or {})


class UsageError(WsctlError):
    """Arguments that are each fine but contradict each other or the rules of their type."""

    exit_code = 2
    code = "usage"


class InventoryError(WsctlError):
    """The inventory or the configuration is unusable; `problems` holds one line per problem."""

    exit_code = 3
    code = "inventory"

    def __init__(self, message: str, *, problems: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint, details={"problems": list(problems)} if problems else None)
        self.problems = tuple(problems)


class NotFound(WsctlError):
    """A user, node or lease that isn't there."""

    exit_code = 4
    code = "not-found"


class Refused(WsctlError):
    """A rule says no; nothing was changed."""

    exit_code = 5
    code = "refused"


class ConfirmationRequired(Refused):
    """There is nobody to ask, and the flag that would answer is absent."""

    code = "confirmation-required"


class PlanChanged(Refused):
    """What would be done now isn't what was shown and confirmed."""

    code = "plan-changed"


class CameBack(PlanChanged):
    """Somebody who was about to be stopped for being idle isn't idle any more."""


class NoCopy(Refused):
    """A user of a dead node has no copy of their files elsewhere that may be used: they stay down."""

    code = "no-copy"


class BackupDamaged(Refused):
    """A backup or archive is cut short, edited, hostile, of a newer program or of another cluster."""

    code = "backup-damaged"


class AuditDamaged(Refused):
    """Rows of the audit table were changed or removed: `details["problems"]` has all, `problems` lines of the first."""

    code = "audit-damaged"

    def __init__(self, found: Sequence[tuple[str, int, str]], *, hint: str | None = None) -> None:
        details = [{"target": target, "sequence": sequence, "problem": what} for target, sequence, what in found]
        count = f"{len(found)} problem{'s' if len(found) > 1 else ''}"
        super().__init__(f"the audit table is damaged: {count}", hint=hint, details={"problems": details})
        lines = [f"{target} {sequence}: {what}" for target, sequence, what in found]
        rest = [f"… and {len(lines) - 20} more: -o json"] if len(lines) > 20 else []
        self.problems = (*lines[:20], *rest)


class StaleGeneration(Refused):
    """A compare-and-swap lost: the placement's generation moved."""

    code = "stale-generation"


class LeaseHeld(WsctlError):
    """Somebody else holds the lease; `details` names holder, command and the seconds left."""

    exit_code = 6
    code = "busy"


class StartsBusy(LeaseHeld):
    """No slot to start on the node was free in time; `details` names node, limit and the seconds waited."""

    code = "starts-busy"


class Unschedulable(WsctlError):
    """No node fits; `details["nodes"]` maps each node to its reasons."""

    exit_code = 7
    code = "unschedulable"


class NodeError(WsctlError):
    """Something went wrong with one node, named in `node`."""

    exit_code = 8
    code = "node"

    def __init__(
        self, node: str, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(f"{node}: {message}", hint=hint, details={"node": node, **(details or {})})
        self.node = node
        self.reason = message


class NodeUnreachable(NodeError):
    """No usable connection: what runs on the node is unknown, and nothing may be concluded from it."""

    code = "node-unreachable"


class HostKeyError(NodeUnreachable):
    """The host key is unknown or changed. Raised before any authentication was attempted."""

    code = "host-key"


class GatewayError(NodeError):
    """A gateway answered, and the answer was an error: its files, its Nginx, or a reload that changed nothing."""

    code = "gateway"


class EngineError(NodeError):
    """The Docker Engine answered, and the answer was an error."""

    code = "engine"


class PortTaken(EngineError):
    """The engine couldn't publish the port because something on the node uses it already."""

    code = "port-taken"


class NameTaken(EngineError):
    """The engine has a container of that name already."""

    code = "name-taken"


class FilesError(NodeError):
    """A node refused something about a user's files: copying, comparing, putting aside. It didn't happen as a whole."""

    code = "files"


class RepositoryError(NodeError):
    """The repository of backups can't be used from the node: its password, its place, or what it said."""

    code = "repository"


class RepositoryMissing(RepositoryError):
    """There is no repository of backups where the node looks for it."""

    code = "repository-missing"


class RepositoryLocked(RepositoryError):
    """Somebody else has the repository of backups for themselves, or left their lock there."""

    code = "repository-locked"


class ImageMissing(EngineError):
    """The image isn't on the node and can't be pulled (or `pull: never` forbids it)."""

    code = "image-missing"


class NotReady(EngineError):
    """The container runs, but its ready probe didn't pass within the configured time."""

    code = "not-ready"


class HookError(WsctlError):
    """A hook of the operator's failed, so that nobody was told."""

    exit_code = 9
    code = "hook"


class PartialFailure(WsctlError):
    """Some targets failed. Those that succeeded are done and reported."""

    exit_code = 9
    code = "partial"


class BackendError(WsctlError):
    """The state database or the coordination backend can't be reached or used: the truth is unknown."""

    exit_code = 10
    code = "backend"


class SchemaError(BackendError):
    """The database's schema isn't the one that this program works with."""

    code = "schema"


class LeaseLost(BackendError):
    """A lease expired or was broken while it was held; the command stopped before its next effect."""

    code = "lease-lost"
