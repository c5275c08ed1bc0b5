"""The guide of high availability says what the lab's clusters run with, on which its promises are tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.clusters import make
from wsctl.coordination.redis_url import parse_redis_url
from wsctl.store.url import MysqlTarget, parse_state_url

GUIDE = (Path(__file__).parents[2] / "docs/guides/high-availability.md").read_text()


def block(language: str) -> list[str]:
    found = re.search(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return [line.partition("#")[0].strip() for line in found[1].splitlines()]


@pytest.mark.parametrize("option", [line for line in block("ini") if "=" in line])
def test_every_setting_of_the_servers_is_one_of_the_labs(option: str, tmp_path: Path) -> None:
    name, _, value = (word.strip() for word in option.partition("="))
    (lab,) = (
        word.partition("=")[2]
        for word in make("galera", tmp_path, "lab", 1).members["galera1"].command()
        if word.startswith(f"--{name}=")
    )
    if not re.search(r"10\.0\.1|wsctl$", value):  # where it is, and what it is called, differs
        assert value == lab


def test_the_urls_are_understood() -> None:
    urls = dict(re.findall(r"^(state|coordination): (\S+)$", GUIDE, re.MULTILINE))
    state, redis = parse_state_url(urls["state"], Path()), parse_redis_url(urls["coordination"], Path())
    assert isinstance(state, MysqlTarget)
    assert (len(state.hosts), redis.kind, len(redis.hosts)) == (3, "cluster", 6)
    options = dict(line.split(" ", 1) for line in block("conf"))
    assert options["cluster-enabled"] == "yes"
