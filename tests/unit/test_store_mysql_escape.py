"""Remembered escapes are PyMySQL's own, in whatever mode the server is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pymysql.connections
from hypothesis import given
from hypothesis import strategies as st
from pymysql.constants import SERVER_STATUS

from wsctl.store.mysql_connect import REMEMBERED, RememberingConnection

PLAIN = SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES


def connections(status: int) -> tuple[RememberingConnection, Any]:
    """Ours and theirs, without a server."""
    how: Any = {"defer_connect": True, "ssl_disabled": True}  # a context for TLS takes longer to make than all of it
    ours, theirs = RememberingConnection(**how), pymysql.connections.Connection(**how)
    ours.server_status = theirs.server_status = status
    return ours, theirs


@given(
    st.lists(
        st.one_of(
            st.text(max_size=80), st.integers(), st.none(), st.booleans(), st.floats(allow_nan=False), st.binary(),
            st.sampled_from(["'", "\\", "\\'; DROP TABLE x; --", "\x00\x1a\n", datetime(2026, 1, 1, tzinfo=UTC)]),
        ),
        max_size=10,
    ),
    st.sampled_from([0, PLAIN]),
)  # fmt: skip
def test_every_value_is_escaped_as_by_the_driver(values: list[object], status: int) -> None:
    ours, theirs = connections(status)
    for value in [*values, *values]:
        if value in (float("inf"), float("-inf")):
            continue
        assert ours.escape(value) == theirs.escape(value)


def test_the_mode_of_the_server_counts_at_each_value() -> None:
    ours, theirs = connections(0)
    word = "a\\'b"
    assert ours.escape(word) == theirs.escape(word) == "'a\\\\\\'b'"
    ours.server_status = theirs.server_status = PLAIN
    assert ours.escape(word) == theirs.escape(word) == "'a\\''b'"


def test_it_does_not_remember_without_end() -> None:
    ours, _ = connections(0)
    for number in range(3 * REMEMBERED):
        ours.escape(f"user{number}")
    assert len(ours._escaped) <= REMEMBERED
