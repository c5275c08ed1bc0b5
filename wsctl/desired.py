"""The container that a placement should have: what a create call is made of.

Responsible for: names, labels, mount, port and limits, from placement, node and spec. Not responsible for: what every
container has in common (`transport.containers`), nor for creating it (`executor`). Pure.
"""

from __future__ import annotations

from wsctl.model import (
    LABEL_CLUSTER,
    LABEL_GENERATION,
    LABEL_SPEC,
    LABEL_USER,
    Node,
    Placement,
    WorkspaceSpec,
)
from wsctl.ports import ContainerSpec


def desired(cluster: str, node: Node, placement: Placement, spec: WorkspaceSpec) -> ContainerSpec:
    """The container of `placement` on its node. The user's name in the environment can't be overridden by the spec."""
    return ContainerSpec(
        name=placement.container,
        image=spec.image,
        command=spec.command,
        env={**spec.env, "WSCTL_USER": placement.user},
        labels={
            LABEL_CLUSTER: cluster,
            LABEL_USER: placement.user,
            LABEL_GENERATION: str(placement.container_generation),
            LABEL_SPEC: spec.digest(),
        },
        source=node.data_path(placement.user),
        mount=spec.mount,
        container_port=spec.container_port,
        address=placement.address,
        host_port=placement.host_port,
        resources=placement.resources,
    )
