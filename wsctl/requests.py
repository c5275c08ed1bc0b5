"""Request ids: the same id gives the first result, from any control host, also when the first caller died.

Responsible for: what a repeated request gives back, what is left to do of one that was cut off, and for refusing an id
that comes with other parameters. Not responsible for: doing it (`workflow`), nor for storing anything (`store`).

There are two records of a request. Its row has the answer, once there is one. Until then the audit table says what it
has done for whom: that entry is written in the transaction that ends the work on a target, so what is done is never
done again, and what isn't is decided from what is observed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from wsctl.audit import placement_of, placement_values
from wsctl.errors import Refused, UsageError
from wsctl.plan import Work
from wsctl.records import AuditKind, AuditRow
from wsctl.workflow import Operation, Options, Outcome, Workflow, World

T = TypeVar("T")

REQUEST_ID = re.compile(r"[!-~]{1,128}")


class RequestMismatch(Refused):
    """The request id was used before with another verb or other parameters."""

    code = "request-mismatch"


@dataclass(frozen=True, slots=True)
class Request:
    """A request id, what it stands for (the digest of verb and parameters), and for how long it is remembered."""

    request_id: str
    verb: str
    digest: str
    keep_s: float


def make_request(request_id: str | None, verb: str, parameters: Mapping[str, object], keep_s: float) -> Request | None:
    """The request of a command; None without an id. Raises `UsageError` for what can't be an id.

    Parameters that don't change what is done (output, parallelism, waiting) don't belong in `parameters`.
    """
    if request_id is None:
        return None
    if not REQUEST_ID.fullmatch(request_id):
        raise UsageError(
            "--request-id must be 1 to 128 printable ASCII characters without spaces",
            hint="a UUID is a good one: --request-id $(uuidgen)",
            details={"length": len(request_id)},
        )
    text = json.dumps([verb, parameters], sort_keys=True, separators=(",", ":"), default=str)
    return Request(request_id, verb, hashlib.sha256(text.encode("utf-8")).hexdigest(), keep_s)


def run(workflow: Workflow, operation: Operation, options: Options, request: Request | None) -> list[Outcome]:
    """`workflow.run`, once: the outcomes of the first run of the request that got through.

    An answer is what succeeded for every target. What failed isn't one: the same request tries that again, and leaves
    alone what it has done already. Raises `RequestMismatch`; `LeaseHeld` while somebody else works on the request.
    """
    if request is None or options.dry_run:
        return workflow.run(operation, options)

    def perform(rows: Sequence[AuditRow]) -> list[Outcome]:
        done = {row.entry.target: _outcome(row) for row in rows if row.entry.kind is AuditKind.DONE}
        begun = {row.entry.target: row.entry.action for row in reversed(rows) if row.entry.kind is AuditKind.INTENT}
        left = tuple(target for target in operation.targets if target not in done)
        found = dict(done)
        if left:
            ours = replace(options, request_id=request.request_id)
            for outcome in workflow.run(replace(operation, targets=left), ours):
                # What was begun before is only finished now: the action is what the request did as a whole.
                action = begun.get(outcome.target, outcome.action) if outcome.error is None else outcome.action
                found[outcome.target] = replace(outcome, action=action)
        return [found[target] for target in operation.targets]

    return once(
        workflow.world,
        request,
        perform,
        encode=lambda outcomes: None if any(o.error for o in outcomes) else [_values(o) for o in outcomes],
        decode=lambda values: [_from_values(value) for value in values],
    )


def once(
    world: World,
    request: Request,
    perform: Callable[[Sequence[AuditRow]], T],
    encode: Callable[[T], object | None],
    decode: Callable[[Any], T],
) -> T:
    """The recorded answer of the request, or what `perform` gives, recorded unless `encode` makes None of it.

    `perform` is given the audit rows of the request. One caller at a time: the lease `request:ID` is held.
    """
    store = world.store
    with world.leases.acquire([f"request:{request.request_id}"], command=request.verb, wait_s=world.lease_wait_s):
        known = store.begin_request(request.request_id, request.verb, request.digest, str(world.actor), request.keep_s)
        if (known.verb, known.digest) != (request.verb, request.digest):
            when = f"{known.began_at:%Y-%m-%d %H:%M:%S} UTC"
            raise RequestMismatch(
                f"the request id {request.request_id} was used at {when} by {known.who} for another command "
                f"({known.verb}) or with other parameters; nothing was done",
                hint=f"wsctl audit --request-id {request.request_id}   # or take a new id",
                details={"request_id": request.request_id, "verb": known.verb},
            )
        if known.answer is not None:
            return decode(json.loads(known.answer))
        answer = perform([] if known.is_new else store.audit(request_id=request.request_id))
        values = encode(answer)
        if values is not None:
            store.finish_request(request.request_id, json.dumps(values, separators=(",", ":"), default=_text))
        return answer


def items_once(
    world: World,
    request: Request | None,
    produce: Callable[[], list[dict[str, object]]],
    is_answer: Callable[[list[dict[str, object]]], bool] = lambda items: True,
) -> list[dict[str, object]]:
    """For verbs that act on many at once: the items that `produce` gives, or gave the first time.

    Such a verb that was cut off is simply done again: it only does what is left to do.
    """
    if request is None:
        return produce()
    return once(
        world,
        request,
        lambda rows: produce(),
        encode=lambda items: items if is_answer(items) else None,
        decode=lambda values: [_with_times(value) for value in values],
    )


def _with_times(value: Any) -> Any:
    """What JSON made text of, back as times: by name, as in the contract."""
    if isinstance(value, list):
        return [_with_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: datetime.fromisoformat(item)
        if (name == "at" or name.endswith(("_at", "as_of", "_until"))) and isinstance(item, str)
        else _with_times(item)
        for name, item in value.items()
    }


def _outcome(row: AuditRow) -> Outcome:
    """What a request did for a target, by the audit entry that says so."""
    entry = row.entry
    return Outcome(entry.target, entry.action, placement_of(entry.after))


def _values(outcome: Outcome) -> dict[str, object]:
    return {
        "target": outcome.target,
        "action": outcome.action,
        "placement": placement_values(outcome.placement),
        "warnings": list(outcome.work.warnings) if outcome.work is not None else [],
        "explain": dict(outcome.explain),
        "ready_ms": outcome.ready_ms,
        "facts": dict(outcome.facts),
    }


def _from_values(values: Mapping[str, Any]) -> Outcome:
    work = Work(values["target"], values["action"], warnings=tuple(values["warnings"]))
    placement = placement_of(values["placement"])
    ready_ms, facts = values.get("ready_ms"), values.get("facts", {})
    return Outcome(
        values["target"],
        values["action"],
        placement,
        work=work,
        ready_ms=ready_ms,
        explain=values["explain"],
        facts=facts,
    )


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} isn't a value of JSON")
