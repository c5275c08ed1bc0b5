"""What `frontends.Gateway` promises of its files, of the fake and of the shell commands on this machine.

Nginx itself and the way by SSH: `tests/integration/test_gateway_apply.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import FakeGateway
from wsctl.frontends import Gateway
from wsctl.model import SshSettings
from wsctl.routes import GatewayHost
from wsctl.transport.gateways import Gateways


@pytest.fixture(params=["fake", "local"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    if request.param == "fake":
        yield FakeGateway()
        return
    host = GatewayHost(
        name="edge",
        address="local",
        ssh=SshSettings(),
        map_file=str(tmp_path / "map.conf"),
        test=("true",),
        reload=("true",),
        status_url="http://127.0.0.1:1/",
    )
    gateways = Gateways({"edge": host})
    yield gateways.gateway("edge")
    gateways.close()


def put(gateway: Gateway, text: str) -> None:
    gateway.upload(text)
    gateway.swap()


def test_an_upload_is_not_live(gateway: Gateway) -> None:
    gateway.upload("one")
    assert (gateway.read().text, gateway.read().unfinished) == (None, False)


def test_a_swap_is_live_and_unfinished_until_it_is_finished(gateway: Gateway) -> None:
    put(gateway, "one")
    assert gateway.read().text == "one"
    gateway.finish()
    put(gateway, "two")
    assert (gateway.read().text, gateway.read().unfinished) == ("two", True)
    gateway.finish()
    assert (gateway.read().text, gateway.read().unfinished) == ("two", False)


def test_what_was_live_comes_back_once(gateway: Gateway) -> None:
    put(gateway, "one")
    gateway.finish()
    put(gateway, "two")
    assert gateway.put_back(there_was_none=False)
    assert (gateway.read().text, gateway.read().unfinished) == ("one", False)
    assert not gateway.put_back(there_was_none=False)
    assert gateway.read().text == "one"


def test_what_was_never_finished_is_not_kept(gateway: Gateway) -> None:
    for text in ("one", "two", "three"):
        put(gateway, text)
        if text == "one":
            gateway.finish()
    assert gateway.put_back(there_was_none=False)
    assert gateway.read().text == "one"


def test_where_there_was_none_there_is_none_again(gateway: Gateway) -> None:
    put(gateway, "one")
    assert gateway.put_back(there_was_none=True)
    assert (gateway.read().text, gateway.read().unfinished) == (None, False)


def test_a_reload_makes_the_file_young(gateway: Gateway) -> None:
    put(gateway, "one")
    gateway.finish()
    time.sleep(0.05)
    assert gateway.reload().ok
    age = gateway.read().age_s
    assert age is not None
    assert age < 2


def test_every_step_may_be_repeated(gateway: Gateway) -> None:
    for _ in range(2):
        gateway.upload("one")
    gateway.swap()
    for _ in range(2):
        gateway.finish()
    for _ in range(2):
        gateway.put_back(there_was_none=True)
    assert gateway.read().text is None
