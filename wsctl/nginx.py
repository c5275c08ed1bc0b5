"""Checking a route map with the real `nginx -t`.

Responsible for: the throw-away configuration that a check runs in. Not responsible for: the texts (`routes`), writing
them (`newfile`), nor for reloading a running Nginx.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from wsctl.errors import InventoryError, Refused

CHECK_TIMEOUT_S = 60.0
"""A map of 1,000,000 entries is checked in under 2 s; this is for a machine that is busy with something else."""

SEARCHED = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/share/nginx/modules"), Path("/etc/nginx/modules"))
LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")


class MapRefused(Refused):
    """Nginx doesn't accept the map or the snippet; `details["nginx"]` has its words."""

    code = "map-refused"


def check(map_text: str, snippet_text: str) -> None:
    """Have the real Nginx read the map and the snippet, in a configuration of their own that listens nowhere else.

    Raises `MapRefused` with Nginx's complaint, `InventoryError` when there is no nginx on this machine.
    """
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{SEARCHED}")
    if binary is None:
        raise InventoryError(
            "--check needs nginx on this machine, and there is none", hint="apt-get install nginx-light"
        )
    with tempfile.TemporaryDirectory(prefix="wsctl-nginx-") as folder:
        base = Path(folder)
        (base / "map.conf").write_text(map_text, encoding="utf-8")
        (base / "snippet.conf").write_text(snippet_text, encoding="utf-8")
        modules = lua_modules() if "_by_lua_block" in snippet_text else ""
        (base / "nginx.conf").write_text(modules + _configuration(base), encoding="utf-8")
        command = [binary, "-t", "-q", "-p", folder, "-c", str(base / "nginx.conf"), "-e", str(base / "error.log")]
        try:
            done = subprocess.run(  # noqa: S603 - nothing of it comes from outside
                command, capture_output=True, text=True, errors="replace", timeout=CHECK_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise MapRefused(f"nginx -t gave no answer within {CHECK_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        words = done.stderr.strip().replace(f"{folder}/", "")
        raise MapRefused(f"nginx -t refuses the route map: {words}", details={"nginx": words})


def lua_modules() -> str:
    """The lines that load Nginx's Lua module. Raises `InventoryError` when it isn't on this machine."""
    for folder in MODULES:
        if (folder / LUA_MODULES[-1]).exists():
            return "".join(f"load_module {folder}/{name};\n" for name in LUA_MODULES if (folder / name).exists())
    raise InventoryError(
        "--check in the mode dynamic needs Nginx's Lua module on this machine, and there is none",
        hint="apt-get install libnginx-mod-http-lua",
    )


def _configuration(base: Path) -> str:
    """A server that would listen on a Unix socket of its own, so that a check needs no free port and no privileges."""
    temp = "".join(
        f"  {kind}_temp_path {base}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"pid {base}/nginx.pid;\nerror_log {base}/error.log;\nevents {{}}\nhttp {{\n{temp}  access_log off;\n"
        f"  include {base}/map.conf;\n  server {{\n    listen unix:{base}/socket;\n    include {base}/snippet.conf;\n"
        "  }\n}\n"
    )
