"""Whether a node may take a workspace, and on which port: one small function per rule, each with its reason.

Responsible for: the rules, the reasons against a node, and the next port of its range. Not responsible for: which of
the feasible nodes is best (`scheduler`), nor for what a controller may do about a reason. Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from wsctl.model import Container, NodeState, NodeView, PullPolicy, Resources, WorkspaceSpec
from wsctl.reports import set_aside, suspicion
from wsctl.text import human_bytes, human_cpus


@dataclass(frozen=True, slots=True)
class Request:
    """What one user needs: resources, an image, and the labels that the node must have (equal values)."""

    user: str
    resources: Resources
    image: str
    pull: PullPolicy = PullPolicy.MISSING
    labels: Mapping[str, str] = field(default_factory=dict)
    workspace_class: str = "default"


def request_for(user: str, spec: WorkspaceSpec, takes: Resources | None = None) -> Request:
    """What the user needs of a node by their spec; `takes` instead of its resources."""
    resources = spec.resources if takes is None else takes
    return Request(user, resources, spec.image, spec.pull, spec.labels, spec.name)


class ReasonKind(StrEnum):
    """Why a node can't take a workspace, in the order in which the filters ask; the value is its short text."""

    EXCLUDED = "out of the question"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DOWN = "down"
    SUSPECT = "suspect"
    ASIDE = "set aside"
    UNREACHABLE = "unreachable"
    LABELS = "without the labels asked for"
    WORKSPACES = "full"
    MEMORY = "not enough memory"
    CPU = "not enough CPU"
    PORTS = "no free port"
    IMAGE = "image absent and not to be pulled"
    NAME = "container name taken"


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason against a node. `need` and `free` are bytes for MEMORY and thousandths of a core for CPU."""

    kind: ReasonKind
    detail: str = ""
    need: int | None = None
    free: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else str(self.kind)


def _excluded(_: Request, view: NodeView) -> Reason | None:
    return None if view.excluded is None else Reason(ReasonKind.EXCLUDED, view.excluded)


def _state(_: Request, view: NodeView) -> Reason | None:
    state = view.mark.state
    if state is NodeState.READY:
        return None
    return Reason(ReasonKind[state.name], view.mark.reason)


def _suspect(_: Request, view: NodeView) -> Reason | None:
    report = suspicion(view.reports)
    return None if report is None else Reason(ReasonKind.SUSPECT, report.reason)


def _aside(request: Request, view: NodeView) -> Reason | None:
    report = set_aside(view.reports, request.image)
    return None if report is None else Reason(ReasonKind.ASIDE, report.reason)


def _reachable(_: Request, view: NodeView) -> Reason | None:
    # None is "not asked", not "no": a plan without observation must be possible.
    return Reason(ReasonKind.UNREACHABLE, view.error or "") if view.reachable is False else None


def _labels(request: Request, view: NodeView) -> Reason | None:
    if not request.labels:
        return None
    has = view.node.labels
    wrong = [
        f"{key}={value} asked for, " + (f"is {has[key]}" if key in has else "has none")
        for key, value in sorted(request.labels.items())
        if has.get(key) != value
    ]
    return Reason(ReasonKind.LABELS, "; ".join(wrong)) if wrong else None


def _workspaces(_: Request, view: NodeView) -> Reason | None:
    used, most = view.usage.workspaces, view.node.capacity.workspaces
    return None if used < most else Reason(ReasonKind.WORKSPACES, f"{used} of {most} workspaces")


def _memory(request: Request, view: NodeView) -> Reason | None:
    need = request.resources.memory_bytes
    free = view.node.capacity.memory_bytes - view.usage.memory_bytes
    if need <= free:
        return None
    free = max(0, free)
    return Reason(ReasonKind.MEMORY, f"need {human_bytes(need)}, free {human_bytes(free)}", need, free)


def _cpu(request: Request, view: NodeView) -> Reason | None:
    need = request.resources.cpus_milli
    free = view.node.capacity.cpus_milli - view.usage.cpus_milli
    if need <= free:
        return None
    free = max(0, free)
    return Reason(ReasonKind.CPU, f"need {human_cpus(need)}, free {human_cpus(free)}", need, free)


def _port(_: Request, view: NodeView) -> Reason | None:
    ports = view.node.ports
    # Fewer used ports than the range has leaves one free, whichever they are: the search is for the rest.
    if len(view.ports_used) < len(ports) or next_port(view) is not None:
        return None
    return Reason(ReasonKind.PORTS, f"all of {ports.first}-{ports.last} are used")


def _image(request: Request, view: NodeView) -> Reason | None:
    # Absent but pullable is fine, and so is unknown: the engine will say.
    if request.pull is PullPolicy.NEVER and view.image_present.get(request.image) is False:
        return Reason(ReasonKind.IMAGE, request.image)
    return None


Filter = Callable[[Request, NodeView], Reason | None]

FILTERS: tuple[Filter, ...] = (
    _excluded, _state, _suspect, _aside, _reachable, _labels, _workspaces, _memory, _cpu, _port, _image,
)  # fmt: skip
"""What every node is asked, in this order. After them `scheduler` asks for the container's name, which alone depends on
the user; so does nothing here, and a judgement can be kept for the next user."""


def name_taken(by: Container) -> Reason:
    """The reason against a node on which a container that isn't ours bears the user's container's name."""
    owner = f"of cluster {by.cluster}" if by.cluster else "not made by wsctl"
    return Reason(ReasonKind.NAME, f"{by.name} exists, {owner}")


def fits(request: Request, view: NodeView) -> tuple[Reason, ...]:
    """What speaks against starting the user's stopped workspace again on its own node: memory and CPU only, because
    its count, its port and its files are there already. Empty means that it fits."""
    return tuple(reason for check in (_memory, _cpu) if (reason := check(request, view)) is not None)


def next_port(view: NodeView) -> int | None:
    """The first unused port behind the one handed out last, going round the range; None if all are used.

    Going on instead of starting at the lowest free one means that a freed port is used again as late as possible: an
    old route map, or a browser's open tab, may still lead its former user's requests there.
    """
    ports = view.node.ports
    size = len(ports)
    start = view.last_port + 1 - ports.first if view.last_port is not None and view.last_port in ports else 0
    for offset in range(start, start + size):
        port = ports.first + offset % size
        if port not in view.ports_used:
            return port
    return None
