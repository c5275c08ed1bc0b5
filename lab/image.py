"""The workspace image, made from this machine's own perl and busybox, without a registry.

It is written as `docker save` would write it, with every date fixed: so it has the same id on every node and in every
run, which an image made by `docker import` would not. Two tags share all but one file: `:1`, and `:2` for tests of
upgrades. Building takes about 0.1 s, so nothing is cached. Not here: the program inside (workspace.pl).
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path

from lab.shell import CLEAN_ENV, LabError, run

REPOSITORY = "wsctl-lab/workspace"
TAGS = ("1", "2")
IMAGE = f"{REPOSITORY}:1"
SERVER = Path(__file__).with_name("workspace.pl")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_CREATED = "2024-01-01T00:00:00Z"
_FOLDERS = ("tmp", "proc", "sys", "dev", "etc", "workspace")


@dataclass(frozen=True)
class BuiltImage:
    """An archive for `docker load`, and what is in it."""

    archive: Path
    ids: dict[str, str]  # by full name, as an engine reports them


def build(archive: Path) -> BuiltImage:
    """Write the archive with all tags."""
    base = _base_layer()
    members: dict[str, bytes] = {"base.tar": base}
    manifest: list[dict[str, object]] = []
    ids: dict[str, str] = {}
    for tag in TAGS:
        top = _tar({"VERSION": (f"{tag}\n".encode(), 0o644)})
        config = json.dumps(_config([base, top]), sort_keys=True).encode()
        digest = hashlib.sha256(config).hexdigest()
        name = f"{REPOSITORY}:{tag}"
        ids[name] = f"sha256:{digest}"
        members |= {f"version-{tag}.tar": top, f"{digest}.json": config}
        layers = ["base.tar", f"version-{tag}.tar"]
        manifest.append({"Config": f"{digest}.json", "RepoTags": [name], "Layers": layers})
    members["manifest.json"] = json.dumps(manifest).encode()
    fresh = archive.with_suffix(".new")
    fresh.write_bytes(_tar({name: (data, 0o644) for name, data in members.items()}))
    fresh.replace(archive)
    return BuiltImage(archive, ids)


def _base_layer() -> bytes:
    files = {name: (path.read_bytes(), 0o755) for name, path in _sources().items()}
    files["etc/passwd"] = (b"root:x:0:0:root:/:/bin/sh\n", 0o644)
    files["etc/group"] = (b"root:x:0:\n", 0o644)
    applets = run(["/bin/busybox", "--list"]).stdout.split()
    links = {f"bin/{name}": "busybox" for name in applets if name != "busybox"}
    return _tar(files, links, _FOLDERS)


def _sources() -> dict[str, Path]:
    """Perl, the modules and libraries it loads, busybox: files of this machine by path in the image."""
    perl = Path("/usr/bin/perl")
    busybox = Path("/bin/busybox")
    if "not a dynamic executable" not in run(["ldd", busybox], check=False).stderr:
        raise LabError("/bin/busybox isn't static: install the package busybox-static")
    loaded = set(run([perl, SERVER, "--modules"], env=CLEAN_ENV).stdout.split())
    names = {name for name in loaded if "/perl" in name}
    binaries = [str(perl), *(name for name in names if name.endswith(".so"))]
    # "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"
    libraries = run(["ldd", *binaries]).stdout.split()
    names |= {word for word in libraries if word.startswith("/") and not word.endswith(":")}
    files = {name.lstrip("/"): Path(name) for name in names}
    return files | {"usr/bin/perl": perl, "bin/busybox": busybox, "srv/workspace.pl": SERVER}


def _config(layers: list[bytes]) -> dict[str, object]:
    return {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Cmd": ["/usr/bin/perl", "/srv/workspace.pl"],
            "Env": ["PATH=/usr/bin:/bin"],
            "ExposedPorts": {"8080/tcp": {}},
            "WorkingDir": "/workspace",
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        "history": [{"created": _CREATED, "created_by": "wsctl lab"} for _ in layers],
    }


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _tar(
    files: dict[str, tuple[bytes, int]],
    links: dict[str, str] | None = None,
    folders: tuple[str, ...] = (),
) -> bytes:
    """A tar whose bytes depend on nothing but its contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(folders):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            info.mode = 0o1777 if name == "tmp" else 0o755
            tar.addfile(info)
        for name, (data, mode) in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = mode
            tar.addfile(info, io.BytesIO(data))
        for name, target in sorted((links or {}).items()):
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            tar.addfile(info)
    return buffer.getvalue()
