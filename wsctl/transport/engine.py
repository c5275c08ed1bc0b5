"""The Docker Engine of one node: `ports.Engine` on docker-py.

Responsible for: which requests make up each operation, with how much patience, and which of them may be repeated. Not
responsible for: the way to the engine (`ssh`, `docker_socket`), the words of failures (`failures`), policy.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from wsctl.errors import EngineError, ImageMissing, NodeError, NodeUnreachable, NotReady
from wsctl.model import LABEL_CLUSTER, Container, EngineFacts, Node, ReadyProbe, is_user_id
from wsctl.ports import ContainerSpec
from wsctl.signals import ContainerSigns
from wsctl.transport import containers, failures, ready
from wsctl.transport.docker_client import OLDEST_API, Client, NoEngine, TooOld
from wsctl.transport.docker_socket import Opener
from wsctl.transport.timeouts import Timeouts

T = TypeVar("T")

MAX_TAIL = 64 * 1024
PURGE_PREFIX = "ws-purge-"


class DockerEngine:
    """One node's engine; see `ports.Engine` for the guarantees. `client` is docker-py's, for what isn't in the port.

    A request whose connection broke before an answer came is sent once more on a new connection if repeating it changes
    nothing: all GETs, and start, stop, rename and remove, which name a state and not a change. Create and pull aren't.
    """

    def __init__(
        self,
        node: Node,
        cluster: str,
        timeouts: Timeouts,
        opener: Opener,
        *,
        peer: Callable[[], str],
        dial: ready.Dial = ready.dial_directly,
        answers: Callable[[float], bool] | None = None,
    ) -> None:
        self._node = node
        self._cluster = cluster
        self._timeouts = timeouts
        self._peer = peer
        self._dial = dial
        self._answers = answers
        self.client = Client(opener, timeouts.request)
        self._newest_api = self._negotiate()

    @property
    def address(self) -> str:
        """The IP literal that ports are published on. Raises `NodeError` if it can't be known."""
        return self._node.publish_address or self._peer()

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name

    @property
    def socket(self) -> str:
        """The path of the engine's socket on the node."""
        return self._node.docker_socket

    @property
    def timeouts(self) -> Timeouts:
        """The limits of its calls."""
        return self._timeouts

    @property
    def api_version(self) -> str:
        """The version of the API that is spoken with this engine."""
        return self.client.api_version

    def facts(self) -> EngineFacts:
        info = self.ask(self.client.info)
        return EngineFacts(
            version=str(info.get("ServerVersion") or ""),
            api_version=self._newest_api,
            ncpu=int(info.get("NCPU") or 0),
            memory_bytes=int(info.get("MemTotal") or 0),
            containers_running=int(info.get("ContainersRunning") or 0),
            system_time=containers.time_of(info.get("SystemTime")),
        )

    def containers(self) -> list[Container]:
        listed = [containers.from_listing(said) for said in self.ask(lambda: self.client.containers(all=True))]
        # After a full disk the listing may call one "created" that runs: for good, as `start` says. One that never ran
        # may be removed, so that isn't taken on trust. Few are in this state: they are about to be started.
        ours = (self._cluster, "created")
        looked = [self._looked_at(one) if (one.cluster, one.state) == ours else one for one in listed]
        return [one for one in looked if one is not None]

    def container(self, name_or_id: str) -> Container | None:
        said = self._inspect(name_or_id)
        return containers.from_inspection(said) if said is not None else None

    def has_image(self, image: str) -> bool:
        try:
            self.ask(lambda: self.client.inspect_image(image))  # type: ignore[no-untyped-call]
        except ImageMissing:
            return False
        except EngineError as error:
            if error.details.get("status") == 404:
                return False
            raise
        return True

    def pull(self, image: str) -> None:
        params = (
            {"fromImage": image}
            if "@" in image or ":" in image.rpartition("/")[2]
            else {"fromImage": image, "tag": "latest"}
        )
        limit = self._timeouts.pull
        deadline = time.monotonic() + limit

        def pull() -> None:
            for said in self.client.stream_post("/images/create", params, limit):
                if said.get("error"):
                    raise ImageMissing(self._node.name, f"can't pull {image}: {failures.clean(str(said['error']))}")
                if time.monotonic() > deadline:
                    raise ImageMissing(self._node.name, f"can't pull {image}: not done within {limit:g} s")

        try:
            self.ask(pull, limit, repeat=False)
        except (ImageMissing, NodeUnreachable):
            raise
        except EngineError as error:
            raise ImageMissing(self._node.name, f"can't pull {image}: {error.reason}", hint=error.hint) from error

    def create(self, spec: ContainerSpec) -> str:
        return self._create(spec.name, containers.to_config(spec))

    def start(self, name_or_id: str) -> None:
        """Start; one that runs already is written down once more.

        An engine lists what it last wrote to disk. If the disk was full at the end of a start, the container runs, and
        is listed as it was before until the engine writes again. Starting it once more is no reason to (seen with
        20.10, where `containerStart` only logs that `CheckpointTo` failed).
        """
        if not self.ask(lambda: self.client.start_anew(name_or_id), self._timeouts.start):
            self._have_written(name_or_id)

    def stop(self, name_or_id: str, grace_s: float = 10.0) -> None:
        grace = max(0, round(grace_s))
        with self._absent_is_fine():
            # docker-py itself adds the grace period to the usual patience.
            self.ask(lambda: self.client.stop(name_or_id, timeout=grace), grace + self._timeouts.request)

    def rename(self, name_or_id: str, name: str) -> None:
        try:
            self.ask(lambda: self.client.rename(name_or_id, name))
        except EngineError:
            # The engine refuses to give the name that it has already, which a request sent twice asks for.
            found = self.container(name_or_id)
            if found is None or found.name != name:
                raise

    def pause(self, name_or_id: str) -> None:
        self._freeze(name_or_id, self.client.pause, "already paused")

    def unpause(self, name_or_id: str) -> None:
        with self._absent_is_fine():
            self._freeze(name_or_id, self.client.unpause, "not paused", "not running")

    def remove(self, name_or_id: str) -> None:
        with self._absent_is_fine():
            try:
                self.ask(lambda: self.client.remove_container(name_or_id, force=True), self._timeouts.remove)
            except EngineError as error:
                if error.details.get("status") != 409 or "in progress" not in error.reason:
                    raise
                self._await_absence(name_or_id)

    def await_ready(self, name_or_id: str, address: str, port: int, probe: ReadyProbe) -> int:
        def has_ended() -> bool:
            found = self.container(name_or_id)
            return found is None or not found.is_running

        try:
            waited = ready.wait(self._dial, address, port, probe, has_ended)
        except failures.FOREIGN as error:
            raise self._translated(error, self._timeouts.request) from error
        if waited.why is None:
            return waited.sent_bytes
        tail = self._tail_or_nothing(name_or_id)
        last = f"; its last words: {failures.clean(tail)}" if tail else ""
        raise NotReady(
            self._node.name,
            f"{name_or_id} isn't ready: {waited.why}{last}",
            hint="correct `workspace.ready`, or the image",
            details={"tail": tail},
        )

    def signs(self, name_or_id: str) -> ContainerSigns | None:
        try:
            stats = self.ask(lambda: self.client.stats(name_or_id, stream=False, one_shot=True))
        except EngineError as error:
            if error.details.get("status") in (404, 409):
                return None
            raise
        said = self._inspect(name_or_id)
        if said is None or not (said.get("State") or {}).get("Running"):
            return None
        return containers.signs_of(cast(dict[str, Any], stats), said)

    def tail(self, name_or_id: str, lines: int = 10) -> str:
        said = self._inspect(name_or_id)
        if said is None:
            return ""
        tty = bool((said.get("Config") or {}).get("Tty"))
        raw = self.ask(lambda: self.client.some_output(name_or_id, lines, MAX_TAIL))
        return containers.demultiplex(raw, tty).decode("utf-8", "replace")

    def purge_data(self, host_root: str, user: str, image: str) -> None:
        if not is_user_id(user):
            raise ValueError(f"not a user id: {user!r}")
        name = f"{PURGE_PREFIX}{user}"
        self.remove(name)  # what a crash left behind
        try:
            created = self._create(
                name, containers.to_purge_config(host_root, user, image, {LABEL_CLUSTER: self._cluster})
            )
        except EngineError as error:
            if "bind source path does not exist" in error.reason:
                return  # without the folder there are no data
            raise
        try:
            self.start(created)
            limit = self._timeouts.purge
            said = self.ask(lambda: self.client.wait(created, timeout=int(limit)), limit)
            if said.get("StatusCode") != 0:
                words = failures.clean(self._tail_or_nothing(created)) or f"exit code {said.get('StatusCode')}"
                raise EngineError(self._node.name, f"couldn't delete all of {host_root}/{user}: {words}")
        finally:
            self.remove(created)

    def close(self) -> None:
        """Give the kept connections up; never raises."""
        with contextlib.suppress(Exception):
            self.client.close()

    def _create(self, name: str, config: dict[str, Any]) -> str:
        try:
            create = cast(Callable[..., dict[str, Any]], self.client.create_container_from_config)
            said = self.ask(lambda: create(config, name), self._timeouts.create, repeat=False)
        except EngineError as error:
            if type(error) is EngineError and error.details.get("status") == 404:
                raise ImageMissing(
                    self._node.name, error.reason, hint="pull it on the node", details=error.details
                ) from error
            raise
        return str(said["Id"])

    def _looked_at(self, listed: Container) -> Container | None:
        """The container as it is by inspection, if that isn't how it was listed."""
        found = self.container(listed.id)
        return listed if found is not None and found.state == listed.state else found

    def _have_written(self, name_or_id: str) -> None:
        """Make the engine write down what it knows of a container, by an update that changes nothing."""
        said = self._inspect(name_or_id)
        policy = ((said or {}).get("HostConfig") or {}).get("RestartPolicy")
        if not policy:
            return
        # If it can't yet, the container runs all the same.
        with contextlib.suppress(EngineError):
            self.ask(lambda: self.client.update_container(name_or_id, restart_policy=policy))

    def _freeze(self, name_or_id: str, request: Callable[[str], object], *fine: str) -> None:
        """Pause or unpause; the engine's refusals that contain one of `fine` say that it is done already."""
        try:
            self.ask(lambda: request(name_or_id))
        except EngineError as error:
            if not any(words in error.reason for words in fine):
                raise

    def _inspect(self, name_or_id: str) -> dict[str, Any] | None:
        try:
            return cast(dict[str, Any], self.ask(lambda: self.client.inspect_container(name_or_id)))
        except EngineError as error:
            if error.details.get("status") == 404:
                return None
            raise

    def _tail_or_nothing(self, name_or_id: str) -> str:
        try:
            return self.tail(name_or_id)
        except NodeError:
            return ""

    def _await_absence(self, name_or_id: str) -> None:
        deadline = time.monotonic() + self._timeouts.remove
        while self.container(name_or_id) is not None:
            if time.monotonic() > deadline:
                raise EngineError(self._node.name, f"{name_or_id} is being removed, but doesn't go")
            time.sleep(0.1)

    @contextlib.contextmanager
    def _absent_is_fine(self) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            if error.details.get("status") != 404:
                raise

    def _negotiate(self) -> str:
        try:
            return self.ask(self.client.negotiate)
        except TooOld as error:
            said = f"the engine's API is {error}, older than {OLDEST_API}"
            raise EngineError(self._node.name, said, hint="wsctl needs Docker 20.10 or newer on the node") from error
        except NoEngine as error:
            raise failures.no_engine(self._node.name, self._node.docker_socket) from error

    def ask(self, request: Callable[[], T], patience_s: float | None = None, *, repeat: bool = True) -> T:
        """Send a request and translate what goes wrong to `NodeError`. `repeat`: once more if the connection broke."""
        limit = self._timeouts.request if patience_s is None else patience_s
        with self.client.patience(limit):
            try:
                try:
                    return request()
                except failures.FOREIGN as error:
                    if not repeat or not failures.is_broken(error):
                        raise
                    return request()
            except failures.FOREIGN as error:
                raise self._translated(error, limit) from error

    def _translated(self, error: BaseException, limit: float) -> NodeError:
        found = failures.translate(self._node.name, self._node.docker_socket, error, limit)
        if failures.is_timeout(error) and isinstance(found, NodeUnreachable) and self._answers is not None:
            return failures.blame(found, self._answers(self._timeouts.diagnosis))
        return found


def local_engine(node: Node, cluster: str, timeouts: Timeouts) -> DockerEngine:
    """The engine of this machine, by its socket. Raises as `DockerEngine`."""

    def opener() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeouts.connect)
            sock.connect(node.docker_socket)
        except OSError:
            sock.close()
            raise
        return sock

    return DockerEngine(node, cluster, timeouts, opener, peer=lambda: "127.0.0.1")
