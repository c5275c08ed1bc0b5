"""What tests of moves share: trees with every kind of file, what a folder holds, and what may be left of a move.

Responsible for: these, and a site that removes its own kept copies. Not responsible for: any test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Lab
from tests.integration.labsite import Site

MANIFEST = r"""cd "$1" && find . ! -type p -printf '%p|%y|%m|%U|%G|%s|%T@|%l|%n\n' |
sed 's/^\(.*|d|.*|.*|.*|\)[0-9]*\(|.*|.*|\).*$/\1\2/' |
LC_ALL=C sort; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; python3 - "$1" <<'END'
import os, sys
for top, folders, files in os.walk(os.fsencode(sys.argv[1])):
    for name in sorted(folders + files):
        path = os.path.join(top, name)
        for key in sorted(os.listxattr(path, follow_symlinks=False)):
            print(path, key, os.getxattr(path, key, follow_symlinks=False))
END
"""

NASTY = r"""set -e; cd "$1"; mkdir deep many; ln -s /etc/passwd outside; ln -s missing dangling
echo one > deep/a; ln deep/a deep/b
printf x > "$(printf 'latin-\351')"; printf y > "$(printf 'line\nbreak')"; echo z > ' -rf --delete'
truncate -s 8M sparse; printf end >> sparse; for n in $(seq 2000); do echo $n > many/$n; done
chmod 4711 deep/a; chown 1234:4321 deep; touch -d '2001-02-03 04:05:06.789' deep/a; mkfifo pipe
python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.note", b"kept \xff")' deep/a"""


@contextmanager
def mover(lab: Lab, folder: Path, **more: str) -> Iterator[Site]:
    """A site of which no copy is left."""
    made = Site(lab, folder, **more)
    try:
        yield made
    finally:
        for node in made.lab.nodes.values():
            script = f"rm -rf /srv/workspaces/.wsctl-*/*-{made.tag}* /run/wsctl-move/{made.tag}.*"
            node.run(["sh", "-c", script], check=False, timeout=60)
        made.sweep()


def sh(site: Site, node: str, script: str, *args: str) -> str:
    return str(site.lab.nodes[node].run(["sh", "-c", script, "sh", *args], timeout=60).stdout)


def manifest(site: Site, node: str, folder: str) -> str:
    return sh(site, node, MANIFEST, f"/srv/workspaces/{folder}").replace(folder, "USER")


def home(site: Site, user: str) -> str:
    return str(site.json("show", user)["node"])


def no_keys(site: Site, user: str) -> None:
    for name in site.lab.nodes:
        left = sh(
            site,
            name,
            'cat ~/.ssh/authorized_keys 2>/dev/null | grep ":$1:" || :; ls /run/wsctl-move 2>/dev/null || :',
            user,
        )
        assert user not in left, left
