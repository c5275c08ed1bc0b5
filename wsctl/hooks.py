"""Hooks of the operator: a command or a URL that is told something as JSON.

Responsible for: calling them within a time limit, and for saying why that failed. The command gets the JSON on its
stdin and no shell reads anything. Not responsible for: when they are called, nor for what a failure means.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from wsctl.errors import HookError
from wsctl.text import clean, to_json

_WORDS = 300


def run(argv: Sequence[str], message: Mapping[str, object], timeout_s: float) -> None:
    """Run a command with the message on its stdin. Raises `HookError` unless it ends with exit code 0 in time."""
    try:
        done = subprocess.run(  # noqa: S603 - the words come from the inventory
            list(argv),
            input=to_json(message).encode() + b"\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise HookError(f"the hook {argv[0]} didn't end within {timeout_s:g} s") from error
    except OSError as error:
        raise HookError(f"cannot run the hook {argv[0]}: {error.strerror or error}") from error
    if done.returncode != 0:
        said = clean(done.stdout.decode("utf-8", "replace").strip()[-_WORDS:])
        raise HookError(f"the hook {argv[0]} failed with exit code {done.returncode}" + (f": {said}" if said else ""))


def post(url: str, message: Mapping[str, object], timeout_s: float) -> None:
    """POST the message. Raises `HookError` unless the answer is of the 200s; redirections aren't followed."""
    import http.client
    import urllib.error
    import urllib.request

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: object) -> None:
            return None

    opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))
    headers = {"Content-Type": "application/json", "User-Agent": "wsctl"}
    request = urllib.request.Request(url, to_json(message).encode(), headers, method="POST")  # noqa: S310 - http(s) only
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        raise HookError(f"the hook {url} answers with HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", None) or error
        raise HookError(f"the hook {url} can't be reached: {clean(str(why))}") from error
