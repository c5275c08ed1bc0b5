"""`wsctl init`: a starting inventory.

Responsible for: its options and never overwriting a file. Not responsible for: the text (`inventory.starter`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsctl.commands.options import DryRunOpt, YesOpt, command
from wsctl.context import App
from wsctl.errors import Refused, UsageError


@command
def init(
    app: App,
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where to write it.")] = Path("inventory.yaml"),
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NAME=ADDRESS", help="A node; repeat for more. Without any: this machine."),
    ] = None,
    cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="Name of the cluster.")] = "main",
    image: Annotated[str, typer.Option("--image", metavar="IMAGE", help="The workspace image.")] = "studio/workspace:1",
    dry_run: DryRunOpt = False,
    yes: YesOpt = False,
) -> None:
    """Write a commented inventory to start from: this machine alone, or the nodes you name. Never overwrites.

    Examples:
      wsctl init
      wsctl init fleet.yaml --node n1=10.0.0.11 --node n2=10.0.0.12
    """
    from wsctl.inventory import starter

    text = starter(_nodes(node or []), cluster=cluster, image=image)
    if dry_run:
        app.out.text(text)
        return
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise Refused(f"{file} exists already; nothing was changed", hint=f"wsctl inventory check -i {file}") from error
    except OSError as error:
        raise Refused(
            f"cannot write {file}: {error.strerror or error}", hint="name a file in a folder of yours"
        ) from error
    app.out.record({"file": str(file), "action": "written"})
    app.out.hint(f"edit it, then: wsctl inventory check -i {file}")


def _nodes(pairs: list[str]) -> dict[str, str]:
    nodes: dict[str, str] = {}
    for pair in pairs:
        name, sign, address = pair.partition("=")
        if not sign or not name or not address:
            raise UsageError(f"--node {pair!r}: expected NAME=ADDRESS", hint="--node n1=10.0.0.11")
        if name in nodes:
            raise UsageError(f"--node {name} is given twice")
        nodes[name] = address
    return nodes
