"""What a digest covers, and how rows are judged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from wsctl.records import Actor, AuditEntry, AuditKind
from wsctl.store import chain

AT = datetime(2026, 1, 1, 12, 0, 0, 250, tzinfo=UTC)
ENTRY = AuditEntry(
    AuditKind.DONE, "place", "alice", Actor("root", "anna", None, "h:1"), "op", "created", before={"b": 1, "a": 2}
)


def digest(**change: Any) -> str:
    whole = {"cluster": "c", "target": "alice", "sequence": 1, "at": AT, "fields": chain.stored(ENTRY), "previous": ""}
    return chain.row_digest(**{**whole, **change})


def test_the_digest_is_of_canonical_json() -> None:
    """Written down, because chains that exist depend on it."""
    text = (
        '{"action":"created","after_state":null,"at":"2026-01-01T12:00:00.000250+00:00","before_state":"{\\"a\\": 2, '
        '\\"b\\": 1}","cluster":"c","detail":"","kind":"done","operation":"op","os_user":"root","plan":"",'
        '"previous":"","process":"h:1","request_id":null,"sequence":1,"ssh_origin":null,"sudo_user":"anna","target":"alice",'
        '"verb":"place"}'
    )
    assert digest() == hashlib.sha256(text.encode()).hexdigest()


def test_the_digest_covers_everything() -> None:
    fields = list(chain.stored(ENTRY))
    others = [
        digest(cluster="d"), digest(target="bob"), digest(sequence=2), digest(previous="0"), digest(at=None),
        digest(at=AT + timedelta(microseconds=1)), digest(at=AT.replace(tzinfo=None)),
    ]  # fmt: skip
    for index in range(len(fields)):
        others += [digest(fields=[*fields[:index], value, *fields[index + 1 :]]) for value in ("?", b"?", 7)]
    # A text that is moved to the next field gives another digest too.
    others.append(digest(fields=[*fields[:9], fields[10], fields[9], *fields[11:]]))
    assert len({digest(), *others}) == len(others) + 1


def test_one_moment_is_one_digest() -> None:
    assert digest(at=AT.astimezone(timezone(timedelta(hours=5)))) == digest()


def test_none_isnt_empty() -> None:
    assert chain.stored(replace(ENTRY, request_id=None)) != chain.stored(replace(ENTRY, request_id=""))
    assert json.loads(str(chain.stored(ENTRY)[10])) == ENTRY.before
    assert chain.stored(ENTRY)[11] is None
    assert len(chain.stored(ENTRY)) == len(chain.FIELDS)


def test_heads_in_any_order_are_one_digest() -> None:
    heads = [("alice", 3, "aa"), ("bob", 1, "bb")]
    assert chain.heads_digest(heads) == chain.heads_digest(reversed(heads))
    for other in ([], heads[:1], [("alice", 3, "aa"), ("bob", 2, "bb")], [("alice", 3, "ab"), ("bob", 1, "bb")]):
        assert chain.heads_digest(other) != chain.heads_digest(heads)


def rows(count: int, target: str = "alice") -> list[list[Any]]:
    """A chain as it is stored."""
    made: list[list[Any]] = []
    for sequence in range(1, count + 1):
        fields = chain.stored(replace(ENTRY, target=target, detail=str(sequence)))
        previous = made[-1][-1] if made else chain.GENESIS
        made.append([target, sequence, AT, *fields, chain.row_digest("c", target, sequence, AT, fields, previous)])
    return made


def judged(*chains: list[list[Any]], head: tuple[object, object] | None = None) -> list[chain.Problem]:
    check = chain.Check("c")
    for one in chains:
        for row in one:
            check.feed(tuple(row), row[2], head or (one[-1][1], one[-1][-1]))
    check.finish()
    return check.problems


def test_whole_chains_have_no_problems() -> None:
    assert judged() == []
    assert judged(rows(1), rows(3, "bob"), rows(2, "carl")) == []


def test_whoever_computes_one_digest_anew_breaks_the_next() -> None:
    chained = rows(3)
    chained[1][5] = "forged"
    chained[1][-1] = chain.row_digest("c", "alice", 2, AT, chained[1][3:-1], chained[0][-1])
    assert [problem[:2] for problem in judged(chained)] == [("alice", 3)]
    chained[2][-1] = chain.row_digest("c", "alice", 3, AT, chained[2][3:-1], chained[1][-1])
    assert [problem[:2] for problem in judged(chained, head=(3, rows(3)[-1][-1]))] == [("alice", 3)]
    # All of it anew, and the head: that is what only a digest kept elsewhere tells.
    assert judged(chained) == []
    kept = chain.heads_digest([("alice", 3, rows(3)[-1][-1])])
    assert chain.heads_digest([("alice", 3, chained[-1][-1])]) != kept


@pytest.mark.parametrize("number", [None, "2", 2.5])
def test_a_number_that_isnt_one_is_told(number: object) -> None:
    chained = rows(3)
    chained[1][1] = number
    assert next(problem[:2] for problem in judged(chained)) == ("alice", 2)
