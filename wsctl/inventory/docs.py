"""Table → the reference page: `python -m wsctl.inventory.docs > docs/reference/inventory.md`.

Responsible for: listing every key with its form and default. Not responsible for: teaching (`inventory.example.yaml`
and the guides do).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from wsctl.inventory.kinds import Key, Kind, MapOf, Section
from wsctl.inventory.reader import expected
from wsctl.inventory.table import ROOT

_INTRO = """\
# The inventory

<!-- Generated from wsctl/inventory/table.py: `python -m wsctl.inventory.docs > docs/reference/inventory.md`. -->

One YAML file describes one cluster: its nodes, and the workspace every user gets. `wsctl` takes the first of

1. `-i FILE` / `--inventory FILE`
2. the file that `WSCTL_INVENTORY` names
3. `inventory.yaml` in the current folder
4. `wsctl/inventory.yaml` in `$XDG_CONFIG_HOME` (`~/.config`)
5. `/etc/wsctl/inventory.yaml`

`wsctl init` writes one to start from, `wsctl inventory check` names every problem with its line, `wsctl inventory show`
prints everything resolved, `wsctl inventory schema` prints a JSON Schema for editors. The shortest one:

```yaml
version: 1
cluster: studio
workspace: {image: studio/workspace:1}
nodes:
  here: {address: local}
```

## How it is read

- **Nothing is guessed.** A value is the text that was written, and each key decides what it may be: a label `no` is the
  word *no*, a port `012` or `22:22` is refused. Switches are `true` or `false` and nothing else.
- **Unknown keys are refused**, with the key that was probably meant. Keys that begin with `x-` are yours, for
  anchors and notes, except in `labels` and `env`, whose names are yours anyway. Duplicate keys are refused.
- **Sizes** are bytes or take `k`, `m`, `g`, `t`, `p` (also `gb`, `GiB`), always powers of 1024: `512m`, `1.5g`.
  **Durations** need a unit of `d`, `h`, `m`, `s`, `ms`: `30s`, `1h30m`.
- **Files** are absolute, below `~`, or relative to the folder of the inventory.
- **Layers.** A node takes any key of `defaults`, and a class any key of `workspace`; the nearer one wins. `ssh`,
  `capacity`, `labels` and `env` are merged key by key, everything else is replaced as a whole.
- Anchors, aliases and merge keys (`<<`) work as usual. Tags, several documents, and files over 5 MiB are refused.
- **No passwords.** A URL with a password in it is refused; the keys `…_password_file` and the environment are for that.
"""


def reference_page() -> str:
    """The whole page as Markdown."""
    return _INTRO + "\n" + "\n".join(_section("", "Keys", ROOT)) + "\n"


def key_paths(section: Section = ROOT, path: str = "") -> Iterator[str]:
    """Every key path of the table, with placeholders for chosen names: `nodes.NODE.ssh.port`."""
    for name, key in section.keys.items():
        where = f"{path}{name}"
        yield where
        inner, step = _inside(key.kind)
        if inner is not None:
            yield from key_paths(inner, f"{where}.{step}")


def _inside(kind: Kind) -> tuple[Section | None, str]:
    """The section below a kind, and the step to it."""
    if isinstance(kind, MapOf):
        inner, step = _inside(kind.value)
        return inner, f"{kind.placeholder}.{step}"
    return (kind, "") if isinstance(kind, Section) else (None, "")


def _section(path: str, title: str, section: Section) -> Iterator[str]:
    yield from (f"## {title}", "", "| key | takes | default | |", "|---|---|---|---|")
    for name, key in section.keys.items():
        yield f"| `{path}{name}` | {_cell(_takes(key))} | {_cell(_default(key))} | {_cell(key.doc)} |"
    yield ""
    for name, key in section.keys.items():
        inner, step = _inside(key.kind)
        if inner is not None:
            yield from _section(f"{path}{name}.{step}", f"`{path}{name}{'.' + step[:-1] if step else ''}`", inner)


def _takes(key: Key) -> str:
    kind = key.kind
    if isinstance(kind, MapOf):
        value = "keys, below" if isinstance(kind.value, Section) else expected(kind.value)
        return f"for each {kind.placeholder} ({kind.name.expected}): {value}"
    takes = "keys, below" if isinstance(kind, Section) else expected(kind)
    return f"{takes}; or `null`: {key.null}" if key.null is not None else takes


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if key.default is not None:
        return f"`{key.default}`"
    return "`null`" if key.null is not None else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference_page())
