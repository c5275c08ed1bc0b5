"""Plans as values: steps, what a plan prints, how it compares and serialises.

Responsible for: the step types (one frozen dataclass each, only what its effect needs, plus the cause) and their text.
The same text is what `--dry-run` prints, what the operator confirms and what tests assert. Not responsible for:
choosing steps (`planner`) or doing them (`executor`). Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from wsctl.model import Capacity, NodeState, PlacementState, ReadyProbe, Resources, container_name, quarantine_name
from wsctl.moving import Home
from wsctl.text import clean


@dataclass(frozen=True, slots=True)
class Step:
    """One effect. `sign` says what kind: + adds, ~ changes, - takes away, ? only looks."""

    sign: ClassVar[str] = "~"
    verb: ClassVar[str] = ""
    user: str
    node: str
    cause: str

    def text(self) -> str:
        """What the step acts on, without the cause."""
        return f"{container_name(self.user)} on {self.node}"

    def line(self) -> str:
        """The step as one line of a plan."""
        cause = f"   ({self.cause})" if self.cause else ""
        return f"{self.sign} {self.verb:<8} {self.text()}{cause}"

    def to_dict(self) -> dict[str, object]:
        """The step for JSON: its verb, its fields as far as they are plain values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"step": self.verb, **{k: v for k, v in plain.items() if isinstance(v, (str, int, float, type(None)))}}


@dataclass(frozen=True, slots=True)
class Reserve(Step):
    """Write the placement and take capacity and port, before anything exists on the node. `home` is the node that is
    known to have the user's files. `only_ready`: not if the node is marked by then."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "reserve"
    address: str
    port: int
    resources: Resources
    capacity: Capacity
    workspace_class: str
    home: str | None = None
    only_ready: bool = False

    def text(self) -> str:
        return f"{self.user} on {self.node} port {self.port}"


@dataclass(frozen=True, slots=True)
class Claim(Step):
    """Begin an operation on a placement by compare-and-swap of its generation."""

    verb: ClassVar[str] = "claim"
    generation: int
    state: PlacementState
    capacity: Capacity | None = None
    new_container: bool = False
    port: int | None = None
    resources: Resources | None = None

    def text(self) -> str:
        port = f" port {self.port}" if self.port is not None else ""
        return f"{self.user} on {self.node}{port} as {self.state}, generation {self.generation + 1}"


@dataclass(frozen=True, slots=True)
class PullImage(Step):
    """Bring the image to the node."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "pull"
    image: str

    def text(self) -> str:
        return f"{self.image} on {self.node}"


@dataclass(frozen=True, slots=True)
class CreateContainer(Step):
    """Create the user's container, labelled with the generation; it doesn't run yet."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "create"


@dataclass(frozen=True, slots=True)
class StartContainer(Step):
    """Start the user's container."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "start"


@dataclass(frozen=True, slots=True)
class AwaitReady(Step):
    """Wait until the ready probe passes."""

    sign: ClassVar[str] = "?"
    verb: ClassVar[str] = "await"
    probe: ReadyProbe

    def text(self) -> str:
        what = f"HTTP {self.probe.http_path}" if self.probe.http_path is not None else "its port"
        return f"{container_name(self.user)} on {self.node} answers on {what} within {self.probe.timeout_s:g} s"


@dataclass(frozen=True, slots=True)
class StopContainer(Step):
    """Stop the user's container; data and placement stay."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "stop"
    grace_s: float = 10.0


@dataclass(frozen=True, slots=True)
class UnpauseContainer(Step):
    """Let the user's container go on that somebody froze."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "unpause"


@dataclass(frozen=True, slots=True)
class RemoveContainer(Step):
    """Remove a container, never its data. `container_id` pins the very one that was observed."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "remove"
    container_id: str | None = None


@dataclass(frozen=True, slots=True)
class QuarantineContainer(Step):
    """Stop the very container that was observed and put its name aside; it and all that is in it stay."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "keep"
    container_id: str
    name: str
    grace_s: float = 10.0

    def text(self) -> str:
        return f"{clean(self.name)} on {self.node}, stopped, as {quarantine_name(self.user, self.container_id)}"


@dataclass(frozen=True, slots=True)
class PurgeData(Step):
    """Delete the user's directory for good."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "purge"
    host_root: str
    image: str
    home: Home | None = None

    def text(self) -> str:
        return f"{self.host_root.rstrip('/')}/{self.user} on {self.node}, all files, for good"


@dataclass(frozen=True, slots=True)
class Settle(Step):
    """End an operation: record the state it led to."""

    verb: ClassVar[str] = "record"
    state: PlacementState

    def text(self) -> str:
        return f"{self.user} on {self.node} as {self.state}"


@dataclass(frozen=True, slots=True)
class Release(Step):
    """Delete the placement; `keep_home` remembers where the files are, `home` is what is forgotten of who has none."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "release"
    keep_home: bool | None = True
    home: Home | None = None

    def text(self) -> str:
        return f"{self.user} from {self.node}"


@dataclass(frozen=True, slots=True)
class MarkNode(Step):
    """Record what operators say about a node; `user` is empty."""

    verb: ClassVar[str] = "mark"
    state: NodeState
    reason: str

    def text(self) -> str:
        return f"{self.node} as {self.state}"


@dataclass(frozen=True, slots=True)
class CheckCopy(Step):
    """See that both nodes have what a copy needs, before anything is done."""

    sign: ClassVar[str] = "?"
    verb: ClassVar[str] = "check"
    source: str

    def text(self) -> str:
        return f"that {self.source} can copy to {self.node}"


@dataclass(frozen=True, slots=True)
class BeginMove(Step):
    """Begin to move a user to `node` by compare-and-swap: take port and room there. They stay where they are."""

    verb: ClassVar[str] = "begin"
    source: str
    address: str
    port: int
    resources: Resources
    capacity: Capacity
    generation: int
    state: PlacementState

    @property
    def is_active(self) -> bool:
        """Whether the user takes memory and CPU on the target from now on."""
        return self.state.holds_resources

    def text(self) -> str:
        return f"{self.user} from {self.source} to {self.node} port {self.port}, generation {self.generation + 1}"


@dataclass(frozen=True, slots=True)
class PrepareTarget(Step):
    """Make a folder for what comes in on the target; files of the user that are there already are put aside."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "prepare"
    source: str

    def text(self) -> str:
        return f"a folder for {self.user} on {self.node}"


@dataclass(frozen=True, slots=True)
class CopyPass(Step):
    """Copy from the source what differs: again and again while the user works, or (`final`) once, when nobody does."""

    sign: ClassVar[str] = "+"
    verb: ClassVar[str] = "copy"
    source: str
    final: bool
    bwlimit: int | None = None
    compress: bool = False

    def text(self) -> str:
        when = "the rest" if self.final else "in passes, while they work"
        return f"files of {self.user} from {self.source} to {self.node}, {when}"


@dataclass(frozen=True, slots=True)
class VerifyCopy(Step):
    """Compare source and copy; any difference ends the move before the swap."""

    sign: ClassVar[str] = "?"
    verb: ClassVar[str] = "verify"
    source: str
    full: bool

    def text(self) -> str:
        what = "all content" if self.full else "content by sample"
        return f"files of {self.user} on {self.node} are those on {self.source}, {what}"


@dataclass(frozen=True, slots=True)
class InstallCopy(Step):
    """Give the copy the place that a workspace's files have on the target."""

    verb: ClassVar[str] = "install"
    source: str

    def text(self) -> str:
        return f"files of {self.user} on {self.node}"


@dataclass(frozen=True, slots=True)
class SwapPlacement(Step):
    """Make the target the user's node, by compare-and-swap: from here on it is the truth."""

    verb: ClassVar[str] = "swap"
    source: str
    state: PlacementState
    leaves_files: bool

    def text(self) -> str:
        return f"{self.user} from {self.source} to {self.node} as {self.state}"


@dataclass(frozen=True, slots=True)
class KeepSource(Step):
    """Put aside the files that a move left, for `keep_s` seconds."""

    verb: ClassVar[str] = "aside"
    keep_s: float

    def text(self) -> str:
        return f"files of {self.user} on {self.node}, kept for {self.keep_s:g} s"


@dataclass(frozen=True, slots=True)
class DiscardCopy(Step):
    """Delete a copy that was being made and that nobody ever worked on; or (`sent`) end what was being copied from the
    node, and its key."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "discard"
    number: int
    installed: bool
    sent: bool = False

    def text(self) -> str:
        return f"{'what copies' if self.sent else 'the unfinished copy of'} {self.user} on {self.node}"


@dataclass(frozen=True, slots=True)
class DropCopy(Step):
    """Delete files that a move left and whose time is over."""

    sign: ClassVar[str] = "-"
    verb: ClassVar[str] = "drop"
    number: int

    def text(self) -> str:
        return f"the kept copy of {self.user} on {self.node}, number {self.number}, for good"


@dataclass(frozen=True, slots=True)
class Work:
    """The steps for one target (a user, or a node), in order; independent of every other target's.

    `base_generation` is the generation the decision was made on (0: no placement). `action` is what will have been
    done, in the words of the JSON contract (`created`, `started`, `unchanged`, `stopped`, …).
    """

    target: str
    action: str
    steps: tuple[Step, ...] = ()
    base_generation: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done: work per target, in the order of deciding."""

    works: tuple[Work, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[Step]:
        for work in self.works:
            yield from work.steps

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not any(work.steps for work in self.works)

    def render(self) -> str:
        """The plan as text, one step a line, the same for the same plan in every process."""
        lines = [step.line() for step in self]
        lines += [f"! {warning}" for work in self.works for warning in work.warnings]
        lines += [f"! {note}" for note in self.notes]
        return "\n".join(lines) if lines else "nothing to do"

    def to_dict(self) -> dict[str, object]:
        """The plan for JSON."""
        items: list[Mapping[str, object]] = [
            {
                "target": work.target,
                "action": work.action,
                "steps": [step.to_dict() for step in work.steps],
                "warnings": list(work.warnings),
            }
            for work in self.works
        ]
        return {"plan": items, "notes": list(self.notes)}
