"""The truth of a real site, for `invariants.broken`: the state database's rows, and what the engines themselves say.

Responsible for: reading them past wsctl's own transport (the engines by `docker inspect` on the node). Not responsible
for: what must hold.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.invariants import Truth, broken
from tests.integration.labsite import Site, eventually
from wsctl.inventory import load
from wsctl.model import LABEL_CLUSTER, LABEL_GENERATION, LABEL_USER, Container
from wsctl.routes import render_map, routes_of
from wsctl.store import lease_rows, open_store


def truth(site: Site, *, purged: tuple[str, ...] = ()) -> Truth:
    """Everything about the site as it is now. `purged` are users whose files may be gone."""
    inventory = load(site.path)
    password = Path(inventory.state.password_file).read_text().strip() if inventory.state.password_file else None
    store = open_store(inventory.state.url, cluster=inventory.cluster, base=site.folder, password=password)
    try:
        placements = store.placements()
        containers = [found for name in site.lab.nodes for found in _containers(site, name)]
        return Truth(
            placements=placements,
            usage=store.usage(),
            containers=containers,
            capacity={name: node.capacity for name, node in inventory.nodes.items()},
            files={name: _files(site, name) for name in site.lab.nodes},
            may_purge=purged,
            homes=store.homes(),
            leases=lease_rows(store).ls(),
            route_map=render_map(
                routes_of(placements, {name: node.publish_address for name, node in inventory.nodes.items()}),
                store.route_generation(),
            ),
            effects={c.user for _, c in containers if c.user},
            audit=store.audit(),
            moves=list(store.moves().values()),
            audit_problems=store.audit_problems(),
        )
    finally:
        store.close()


def _containers(site: Site, node: str) -> list[tuple[str, Container]]:
    machine = site.lab.nodes[node]
    listed = machine.run(["docker", "ps", "-aq", "--filter", f"label={LABEL_CLUSTER}={site.tag}"]).stdout.split()
    if not listed:
        return []
    return [(node, _container(one)) for one in json.loads(machine.run(["docker", "inspect", *listed]).stdout)]


def _container(said: dict[str, object]) -> Container:
    config, state, host = said["Config"], said["State"], said["HostConfig"]
    assert isinstance(config, dict)
    assert isinstance(state, dict)
    assert isinstance(host, dict)
    labels = config["Labels"]
    ((binding,),) = host["PortBindings"].values()
    return Container(
        id=str(said["Id"]),
        name=str(said["Name"]).removeprefix("/"),
        state=state["Status"],
        cluster=labels[LABEL_CLUSTER],
        user=labels[LABEL_USER],
        generation=int(labels[LABEL_GENERATION]),
        address=binding["HostIp"],
        host_port=int(binding["HostPort"]),
    )


def _files(site: Site, node: str) -> set[str]:
    listed = site.lab.nodes[node].run(["sh", "-c", "ls /srv/workspaces 2>/dev/null || true"]).stdout.split()
    return {name for name in listed if name.endswith(f"-{site.tag}")}


def settle(site: Site, *, purged: tuple[str, ...] = ()) -> None:
    """What an operator does the morning after: leases of the dead are broken, `reconcile` until nothing is left; then
    a second run finds nothing, and all invariants hold."""
    for lease in site.json("lease", "ls")["items"]:
        site.run("lease", "break", lease["name"], "--yes", code=None)
    said = []

    def is_done() -> bool:
        ran = site.run("reconcile", "-o", "json", code=None)
        said.append(ran.out or ran.err)
        return ran.code == 0

    try:
        eventually(is_done, timeout_s=60, step_s=0.5)
    except AssertionError as error:
        raise AssertionError(f"reconcile doesn't come to an end: {said[-1]}") from error
    again = site.json("reconcile")
    assert again["items"] == [], again
    problems = broken(truth(site, purged=purged))
    assert not problems, problems
