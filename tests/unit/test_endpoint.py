"""The endpoint's knowledge and tokens, without Nginx and without a database."""

from __future__ import annotations

import pytest

from wsctl.endpoint import FRESH_S, FULL_S, Known, RouteBook, bearer, sign
from wsctl.errors import BackendError

KEY = b"k" * 32


class Site:
    """A state database and a clock, as the book sees them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.known = Known(1, {"alice": "10.0.0.1:1"}, {"stan": "stopped"})
        self.asked = self.loads = 0
        self.broken = False

    def generation(self) -> int:
        self.asked += 1
        if self.broken:
            raise BackendError("gone")
        return self.known.generation

    def load(self) -> Known:
        self.loads += 1
        if self.broken:
            raise BackendError("gone")
        return self.known


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def book(site: Site) -> RouteBook:
    return RouteBook(site.generation, site.load, lambda: site.now)


def test_everybody_has_a_state(book: RouteBook) -> None:
    assert book.look_up("alice") == ("10.0.0.1:1", "running")
    assert book.look_up("stan") == (None, "stopped")
    assert book.look_up("nobody") == (None, "unknown")


def test_the_database_is_asked_a_few_times_a_second_however_many_ask(book: RouteBook, site: Site) -> None:
    for _ in range(1000):
        book.look_up("alice")
    assert (site.asked, site.loads) == (0, 1)
    site.now += FRESH_S
    for _ in range(1000):
        book.look_up("alice")
    assert (site.asked, site.loads) == (1, 1), "the same generation isn't read again"


def test_a_new_generation_is_read(book: RouteBook, site: Site) -> None:
    site.known = Known(2, {"alice": "10.0.0.2:1"}, {})
    assert book.look_up("alice")[0] == "10.0.0.1:1"
    site.now += FRESH_S
    assert book.look_up("alice")[0] == "10.0.0.2:1"


def test_a_state_without_a_new_generation_is_read_a_little_later(book: RouteBook, site: Site) -> None:
    site.known = Known(1, site.known.upstreams, {"stan": "failed"})
    site.now += FULL_S
    assert book.look_up("stan") == (None, "failed")


def test_without_the_database_the_last_knowledge_goes_on(book: RouteBook, site: Site) -> None:
    site.broken = True
    for _ in range(3):
        site.now += FULL_S
        assert book.look_up("alice") == ("10.0.0.1:1", "running")
    site.broken = False
    site.known = Known(9, {}, {})
    site.now += FRESH_S
    assert book.look_up("alice") == (None, "unknown")


def test_a_token_is_its_users_until_it_expires() -> None:
    token = sign(KEY, "alice", 2000)
    assert bearer(KEY, token, 1999.9) == "alice"
    assert bearer(KEY, token, 2000) is None
    assert bearer(b"x" * 32, token, 0) is None
    assert bearer(KEY, token.replace("alice", "bob"), 0) is None
    assert bearer(KEY, token.replace("2000", "3000"), 0) is None
    for broken in ("", "alice", "alice.2000.", f"{token}0", f" {token}", token.replace("2000", "٢٠٠٠"), token[:-1]):
        assert bearer(KEY, broken, 0) is None
