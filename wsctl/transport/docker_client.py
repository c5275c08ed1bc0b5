"""docker-py's low-level client on a stream of our own.

Responsible for: a client that reads no file and no variable of the operator's Docker CLI, and speaks the version that
both sides know. Not responsible for: the meaning of requests (`engine`), failures (`failures`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import requests
from docker.api.client import APIClient
from docker.auth import AuthConfig
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.utils.proxy import ProxyConfig

from wsctl import __version__
from wsctl.transport.docker_socket import EngineAdapter, Opener

OLDEST_API = "1.41"
BASE_URL = "http+docker://localhost"


class TooOld(Exception):
    """The engine's newest API is older than what wsctl needs."""


class NoEngine(Exception):
    """Something answers HTTP, but not as an engine."""


class Client(APIClient):
    """An `APIClient` whose requests all go through `opener`'s streams.

    The parent's constructor isn't called: it would read ~/.docker/config.json, contexts and the environment, and insist
    on an address that it can dial itself. `timeout` is in seconds, for each read.
    """

    if TYPE_CHECKING:
        # What the stubs leave out of docker-py's protected interface.
        _post: Callable[..., requests.Response]
        _get: Callable[..., requests.Response]
        _url: Callable[..., str]
        _raise_for_status: Callable[[requests.Response], None]
        _stream_helper: Callable[..., Iterator[dict[str, Any]]]

    def __init__(self, opener: Opener, timeout: float) -> None:
        requests.Session.__init__(self)
        self.trust_env = False
        self.base_url = BASE_URL
        self.timeout = cast(int, timeout)
        self.credstore_env = None
        self.headers["User-Agent"] = f"wsctl/{__version__}"
        self._general_configs: dict[str, Any] = {}
        self._proxy_configs = ProxyConfig()
        self._auth_configs = AuthConfig({}, None)
        self._custom_adapter = EngineAdapter(opener, timeout)
        self._version = OLDEST_API
        self._patience = threading.local()
        self.adapters.clear()
        self.mount("http+docker://", self._custom_adapter)

    def negotiate(self) -> str:
        """Find the newest API that both sides know, speak it from now on, and return the engine's newest. `_ping` says
        it ten times faster than `/version`, which is asked only about engines newer than docker-py.
        Raises `TooOld`, `NoEngine` (an answer that isn't an engine's), and what docker-py and requests raise."""
        response = self._get(f"{self.base_url}/_ping")
        if response.status_code == requests.codes.not_found:
            raise NoEngine(response.status_code)
        self._raise_for_status(response)
        try:
            newest = str(response.headers["Api-Version"])
            oldest = OLDEST_API
            if _key(newest) > _key(DEFAULT_DOCKER_API_VERSION):
                oldest = str(self.version(api_version=False).get("MinAPIVersion") or OLDEST_API)
            self._version = common_version(newest, oldest)
        except (KeyError, ValueError, AttributeError) as error:
            raise NoEngine(response.text[:80]) from error
        return newest

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Let the requests of this thread inside the block take up to `seconds` instead of the usual timeout."""
        self._patience.seconds = seconds
        try:
            yield
        finally:
            self._patience.seconds = None

    def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs.setdefault("timeout", getattr(self._patience, "seconds", None) or self.timeout)
        return kwargs

    def start_anew(self, container: str) -> bool:
        """Start, and whether it didn't run yet: docker-py's own `start` doesn't say."""
        response = self._post(self._url("/containers/{0}/start", container))
        self._raise_for_status(response)
        return bool(response.status_code != requests.codes.not_modified)

    def stream_post(self, path: str, params: dict[str, str], timeout: float) -> Iterator[dict[str, Any]]:
        """POST, and the objects of the answer as they come. docker-py's own `pull` has no timeout at all."""
        response = self._post(self._url(path), params=params, stream=True, timeout=timeout)
        self._raise_for_status(response)
        with response:
            yield from self._stream_helper(response, decode=True)

    def some_output(self, container: str, lines: int, most: int) -> bytes:
        """The last `lines` lines of a container's output as the engine frames it, cut after `most` bytes."""
        params = {"stdout": 1, "stderr": 1, "tail": lines}
        response = self._get(self._url("/containers/{0}/logs", container), params=params, stream=True)
        with response:
            self._raise_for_status(response)
            return bytes(b"".join(itertools.islice(response.iter_content(8192), max(1, most // 8192))))


def common_version(newest: str, oldest: str) -> str:
    """The API version to speak with an engine that offers `oldest`..`newest`: not newer than docker-py knows, unless
    the engine knows nothing older. Raises `TooOld`, ValueError."""
    if _key(newest) < _key(OLDEST_API):
        raise TooOld(newest)
    wanted = min(newest, DEFAULT_DOCKER_API_VERSION, key=_key)
    return max(wanted, oldest, key=_key)


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
