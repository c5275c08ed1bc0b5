"""`wsctl inventory check|show|schema`: the inventory file itself.

Responsible for: presenting it. Not responsible for: its rules (`wsctl.inventory`).
"""

from __future__ import annotations

from wsctl.commands.options import command
from wsctl.context import App


@command
def check(app: App) -> None:
    """Check the inventory and report all its problems at once.

    Example:
      wsctl inventory check -i inventory.yaml
    """
    inventory = app.inventory
    app.out.record(
        {
            "file": str(app.inventory_file),
            "result": "ok",
            "cluster": inventory.cluster,
            "nodes": len(inventory.nodes),
            "classes": sorted(inventory.classes),
            "warnings": list(inventory.warnings),
        }
    )


@command
def show(app: App) -> None:
    """Show the inventory with defaults filled in and everything resolved; secrets are never part of it.

    Example:
      wsctl inventory show -o json
    """
    from wsctl.inventory import effective, render_effective_yaml

    if app.out.is_json:
        app.out.record(effective(app.inventory))
    else:
        app.out.text(render_effective_yaml(app.inventory))


@command
def schema(app: App) -> None:
    """Print the inventory's JSON Schema, for editors that check and complete YAML.

    Example:
      wsctl inventory schema > inventory.schema.json
    """
    import json

    from wsctl.inventory import json_schema

    app.out.text(json.dumps(json_schema(), indent=2) + "\n")
