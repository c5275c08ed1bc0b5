"""Putting the route map live on gateways: upload beside, swap, `nginx -t`, reload, confirm; else the old one back.

Responsible for: the order of these, the lease on each gateway, at most one reload a second, and that a run that is cut
off anywhere leaves what the next one repairs. Not responsible for: what is to be done (`livemap.decide`), the effects
(`frontends.Gateway`), nor for which placements there are (`render`).

The steps and what a death after each leaves: *uploaded*: a file that nothing reads, overwritten by the next upload.
*Swapped* or *tested*: the new file with the old workers; the next run sees that the workers don't serve the file, tests
and reloads. *Reloaded*: the next run confirms. The file that was good last stays beside until a map is confirmed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from wsctl.errors import BackendError, GatewayError, NodeError, NodeUnreachable, Refused, WsctlError
from wsctl.frontends import Gateway, LiveFile, Said
from wsctl.livemap import Served, Verdict, Wanted, complaint_in, decide, fixed_part, parse_served
from wsctl.nginx import MapRefused
from wsctl.ports import Clock, HeldLeases, Leases
from wsctl.routes import parse_header
from wsctl.transport.fanout import run as fan_out

PARALLEL = 16
DEADLINE_S = 600.0
"""For one gateway; each call has a tighter limit of its own."""

RELOAD_EVERY_S = 1.0
"""At most one reload in this time, however many placements change: a reload doubles the workers for a while."""

CONFIRM_S = 10.0
CONFIRM_ROUTE_S = 40e-6
"""How long new workers may take, and how much longer for each route: a million are read in 2 s of CPU time, which a
busy machine may stretch twenty times."""
CONFIRM_ANSWERS = 5
CONFIRM_PAUSE_S = 0.03
"""So many answers in a row, so far apart, must be the new map's: together longer than the 0.1 s in which old and new
workers both accept connections (ngx_reconfigure)."""


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """`force` replaces files that were edited by hand or are newer, too; `wait_s` is for somebody else's lease,
    `confirm_s` for new workers."""

    force: bool = False
    dry_run: bool = False
    wait_s: float = 10.0
    confirm_s: float = CONFIRM_S
    command: str = "render-gateway"


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one gateway. `action` is `applied`, `unchanged`, `would-apply` or `failed`; generation and routes
    are those of the map that is live afterwards, None when that isn't known. `snippet_current`: whether the snippet
    that Nginx includes is the one that goes with the map, None when Nginx doesn't say what it serves."""

    gateway: str
    action: str
    generation: int | None = None
    routes: int | None = None
    reload_ms: int | None = None
    confirm_ms: int | None = None
    snippet_current: bool | None = None
    error: WsctlError | None = None


class Maps:
    """The map of the placements as they are, rendered once for all gateways that ask at the same time."""

    def __init__(self, render: Callable[[], Wanted]) -> None:
        self._render = render
        self._lock = threading.Lock()
        self._began = float("-inf")
        self._made: Wanted | None = None

    def now(self) -> Wanted:
        """A map that was begun after the call: what was true before is in it. Raises what rendering raises."""
        asked = time.monotonic()
        with self._lock:
            if self._made is None or self._began <= asked:
                self._made, self._began = None, time.monotonic()
                self._made = self._render()
            return self._made


class Applier:
    """One run. `connect` gives a gateway by name, `render` the map of the placements as they are at that moment."""

    def __init__(
        self,
        connect: Callable[[str], Gateway],
        render: Callable[[], Wanted],
        leases: Leases,
        clock: Clock,
        options: ApplyOptions,
    ) -> None:
        self._connect = connect
        self._maps = Maps(render)
        self._leases = leases
        self._clock = clock
        self._options = options

    def run(self, names: Sequence[str]) -> list[Applied]:
        """Apply to all of them side by side; one that fails doesn't stop the others. In the given order.

        Raises `BackendError` if one and the same stopped all of several: there is no map that anybody may get.
        """
        results = fan_out(names, self._one, parallel=PARALLEL, deadline_s=DEADLINE_S)
        found: list[Applied] = []
        for name, result in results.items():
            if isinstance(result, Applied):
                found.append(result)
            elif isinstance(result, NodeUnreachable):  # fanout's own, for one that hangs
                late = NodeUnreachable(name, result.reason)
                found.append(Applied(name, "failed", error=late))
            else:
                raise result
        _raise_if_there_is_no_map([one.error for one in found])
        return found

    def _one(self, name: str) -> Applied:
        try:
            if self._options.dry_run:
                return self._rehearse(name, self._connect(name))
            # First the connection, then the lease: nobody waits for a handshake that fails.
            gateway = self._connect(name)
            lease = f"gateway:{name}"
            with self._leases.acquire([lease], command=self._options.command, wait_s=self._options.wait_s) as held:
                return Application(name, gateway, held, self._clock, self._look, self._options.confirm_s).run()
        except WsctlError as error:
            return Applied(name, "failed", error=error)

    def _rehearse(self, name: str, gateway: Gateway) -> Applied:
        look = self._look(name, gateway)
        action = "unchanged" if look.verdict is Verdict.UNCHANGED else "would-apply"
        return replace(look.summary(name), action=action)

    def _look(self, name: str, gateway: Gateway) -> Look:
        """The gateway and the placements as they are now. Raises `Refused` where nothing may be done."""
        wanted = self._maps.now()
        live = gateway.read()
        said = gateway.status()
        served = parse_served(said.words) if said.ok else None
        verdict = decide(live.text, served, wanted, force=self._options.force)
        if verdict in (Verdict.EDITED, Verdict.NEWER):
            raise _refusal(name, gateway.map_file, verdict, live, wanted)
        return Look(live, wanted, verdict, served)


@dataclass(frozen=True, slots=True)
class Look:
    """A gateway at one moment, and what is to be done about it."""

    live: LiveFile
    wanted: Wanted
    verdict: Verdict
    served: Served | None

    @property
    def target(self) -> Served:
        """What the workers will serve in the end: where the file's routes are right, its own generation."""
        header = parse_header(self.live.text or "")
        if self.verdict is not Verdict.REPLACE and header is not None:
            return Served(header.generation, header.digest)
        return Served(self.wanted.generation, self.wanted.digest)

    @property
    def reloads(self) -> bool:
        """Whether Nginx must load its configuration anew: not if its Lua reads new routes by itself."""
        fixed = fixed_part(self.wanted.text)
        return self.verdict is not Verdict.REPLACE or fixed is None or fixed != fixed_part(self.live.text or "")

    def summary(self, name: str) -> Applied:
        """The answer if nothing else happens."""
        current = None if self.served is None else self.fits(self.served)
        return Applied(name, "unchanged", self.target.generation, self.wanted.count, snippet_current=current)

    def fits(self, served: Served) -> bool:
        """Whether the snippet that Nginx includes is the one that goes with the map."""
        return self.wanted.snippet in (None, served.snippet)


class Standing(Enum):
    """What the map's file is after a failure, as the message says it."""

    OLD = "the old map is back"
    SAME = "the map's file stays as it was"
    NONE = "there is no map, as before"
    FIRST = "the map stays for Nginx to load, as there was none before"


class Application:
    """Carrying it out on one gateway, under its lease."""

    def __init__(
        self,
        name: str,
        gateway: Gateway,
        held: HeldLeases,
        clock: Clock,
        look: Callable[[str, Gateway], Look],
        confirm_s: float,
    ) -> None:
        self._name = name
        self._gateway = gateway
        self._held = held
        self._clock = clock
        self._look = look
        self._confirm_s = confirm_s

    def run(self) -> Applied:
        """From the look to the confirmation. Raises `WsctlError`; the live file is then the old one."""
        look = self._look(self._name, self._gateway)
        age_s = look.live.age_s
        if look.verdict is not Verdict.UNCHANGED and look.reloads and age_s is not None and age_s < RELOAD_EVERY_S:
            self._clock.sleep(RELOAD_EVERY_S - age_s)
            # What changed meanwhile rides along.
            look = self._look(self._name, self._gateway)
        if look.verdict is Verdict.UNCHANGED:
            if look.live.unfinished:
                self._gateway.finish()
            return look.summary(self._name)
        if look.verdict is Verdict.REPLACE:
            self._held.check()
            self._gateway.upload(look.wanted.text)
            self._held.check()
            self._gateway.swap()
        began = time.monotonic()
        if look.reloads:
            self._test(look)
            self._held.check()
            self._reload(look)
        reloaded = time.monotonic()
        served = self._confirm(look)
        confirmed = time.monotonic()
        self._gateway.finish()
        return replace(
            look.summary(self._name),
            action="applied",
            reload_ms=round((reloaded - began) * 1000),
            confirm_ms=round((confirmed - reloaded) * 1000),
            snippet_current=look.fits(served),
        )

    def _test(self, look: Look) -> None:
        try:
            said = self._gateway.test()
        except NodeError:
            # It hangs, or can't be run: what nobody has tested mustn't be what a restart of Nginx finds.
            with contextlib.suppress(WsctlError):
                self._take_back(look)
            raise
        if said.ok:
            return
        standing = self._take_back(look)
        blamed = complaint_in(said.words)
        whose = "the new map" if blamed.file == self._gateway.map_file else "its configuration"
        if standing is Standing.OLD and blamed.file != self._gateway.map_file:
            # Blame by trial: what Nginx refuses without the new map too is somebody else's.
            without = self._gateway.test()
            whose = (
                "the new map" if without.ok else f"{whose} with and without the new map, so it isn't the map's fault"
            )
            blamed = blamed if without.ok else complaint_in(without.words)
        raise MapRefused(
            f"{self._name}: Nginx refuses {whose}: {blamed}; {standing.value}",
            hint=f"mend that, see `nginx -t` on {self._name}, then: wsctl render-gateway --apply",
            details={"gateway": self._name, "file": blamed.file, "line": blamed.line, "nginx": said.words.strip()},
        )

    def _reload(self, look: Look) -> None:
        said = self._gateway.reload()
        if not said.ok:
            standing = self._take_back(look, tested=True)
            raise GatewayError(
                self._name,
                f"the reload failed: {complaint_in(said.words)}; {standing.value}",
                hint=f"is Nginx running on {self._name}? systemctl status nginx",
                details={"nginx": said.words.strip()},
            )

    def _confirm(self, look: Look) -> Served:
        """What the new workers serve, once they answer, several times in a row."""
        deadline = time.monotonic() + self._confirm_s + CONFIRM_ROUTE_S * look.wanted.count
        agreed = 0
        while True:
            said = self._gateway.status()
            served = parse_served(said.words) if said.ok else None
            agreed = agreed + 1 if served == look.target else 0
            if served is not None and agreed == CONFIRM_ANSWERS:
                return served
            if agreed == 0 and time.monotonic() >= deadline:
                break
            self._clock.sleep(CONFIRM_PAUSE_S)
        standing = self._take_back(look, tested=True)
        if standing is Standing.OLD and look.reloads:
            self._gateway.reload()
        raise self._unconfirmed(look, said, standing)

    def _unconfirmed(self, look: Look, said: Said, standing: Standing) -> GatewayError:
        served = parse_served(said.words) if said.ok else None
        if served is not None:
            what = f"still serves generation {_name(served)}, not {_name(look.target)}"
            hint = f"its error log on {self._name} says why: tail /var/log/nginx/error.log"
        elif said.ok:
            what, hint = "tells no generation of a map", "wsctl render-gateway --snippet   # and include that"
        else:
            what = f"can't be asked what it serves: {said.words}"
            hint = (
                f"the server at `gateway.hosts.{self._name}.status_url` needs the snippet of this version: "
                "wsctl render-gateway --snippet"
            )
        return GatewayError(self._name, f"Nginx {what}; {standing.value}", hint=hint)

    def _take_back(self, look: Look, *, tested: bool = False) -> Standing:
        """The old file live again, if the new one was put there by this run or by one that was cut off.

        Where there was none, a map that passed the test stays: a configuration that needs it can't even start without.
        """
        if look.live.text is not None:
            return Standing.OLD if self._gateway.put_back(there_was_none=False) else Standing.SAME
        if not tested:
            self._gateway.put_back(there_was_none=True)
        return Standing.FIRST if tested else Standing.NONE


def _raise_if_there_is_no_map(errors: Sequence[WsctlError | None]) -> None:
    backend = [error for error in errors if isinstance(error, BackendError)]
    if len(backend) == len(errors) > 1 and len({error.message for error in backend}) == 1:
        raise backend[0]


def _name(served: Served) -> str:
    return f"{served.generation} ({served.digest[:7]})"


def _refusal(name: str, path: str, verdict: Verdict, live: LiveFile, wanted: Wanted) -> Refused:
    header = parse_header(live.text or "")
    if verdict is Verdict.NEWER and header is not None:
        return Refused(
            f"{name}: {path} has generation {header.generation}, the state database is at {wanted.generation}: its map "
            "is older; nothing was changed",
            hint="is this the right state database? then: wsctl render-gateway --apply --force",
            details={"gateway": name, "live": header.generation, "wanted": wanted.generation},
        )
    what = "isn't a route map of wsctl's" if header is None else "was edited by hand since wsctl wrote it"
    return Refused(
        f"{name}: {path} {what}; nothing was changed",
        hint="see `wsctl render-gateway --diff`, then replace it: wsctl render-gateway --apply --force",
        details={"gateway": name, "file": path},
    )
