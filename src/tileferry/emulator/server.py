"""The emulator as a whole: it listens, tells calls apart and remembers them."""

from __future__ import annotations

import asyncio
import functools
import shutil
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiohttp import web

from tileferry.emulator import api, control, upload
from tileferry.emulator.answers import Answer, CallError
from tileferry.emulator.calls import Call, CallKind, CallLog, fingerprint
from tileferry.emulator.chance import chance
from tileferry.emulator.delivery import Line, deliver
from tileferry.emulator.faults import FaultPlan
from tileferry.emulator.limits import RateLimit, Tokens
from tileferry.emulator.routes import find_route
from tileferry.emulator.settings import EmulatorSettings
from tileferry.emulator.shop import Shop
from tileferry.emulator.store import Store
from tileferry.emulator.truth import take_truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tileferry.emulator.faults import Fault
    from tileferry.emulator.routes import Route
    from tileferry.emulator.truth import Truth

_STOP_SECONDS = 0.2
"""What calls in flight get to end by themselves when the emulator stops."""


class Emulator:
    """The Instant Site API on loopback, from `async with` (or `start`) to its end (or `stop`); runs once.

    `clock` counts the seconds of the rate window, of processing and of lifetimes, so that a test can move it.
    Faults may be planned before the start.
    """

    def __init__(
        self, settings: EmulatorSettings | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings or EmulatorSettings()
        self._clock = clock
        self._plan = FaultPlan(
            rate=self.settings.fault_rate, kinds=self.settings.fault_kinds, seed=self.settings.seed
        )
        self._latency = chance(self.settings.seed, "latency")
        self._folder: Path | None = None
        self._store: Store | None = None
        self._shop: Shop | None = None
        self._runner: web.ServerRunner | None = None
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="emulator-disk")
        self._serving: set[asyncio.Task[object]] = set()
        self._since = 0.0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises `OSError` if port or folder cannot be used, `ValueError` for a foreign folder."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._folder = await loop.run_in_executor(self._disk, _made_folder, self.settings.folder)
        store = self._store = Store(self.settings, self._folder, self._clock)
        await loop.run_in_executor(self._disk, store.open)
        listener = _listener(self.settings, store.last_port)
        port = int(listener.getsockname()[1])
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        self._shop = Shop(
            settings=self.settings,
            base_url=f"http://{host}:{port}",
            clock=self._clock,
            store=store,
            tokens=Tokens(self.settings, self._clock),
            limits=RateLimit(self.settings, self._clock),
            plan=self._plan,
            log=CallLog(self.settings.calls_kept),
            stop=asyncio.Event(),
            disk=self._disk,
        )
        self._since = self._clock()
        store.note_port(port)
        # Compressed bodies are refused as they are; unpacked by aiohttp they would pass for plain ones.
        server = web.Server(self._handle, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(server, shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, backlog=1024).start()

    async def stop(self) -> None:
        """Drop every connection and let go of everything, a temporary folder included; again is fine."""
        shop, self._shop = self._shop, None
        if shop is not None:
            shop.stop.set()
        if self._runner is not None:
            await self._runner.cleanup()
            await asyncio.gather(*self._serving, return_exceptions=True)
        # The disk's threads end first, or one of them might still write into the folder.
        await asyncio.to_thread(self._disk.shutdown)
        if self._store is not None:
            self._store.close()
        folder, self._folder = self._folder, None
        if folder is not None and self.settings.folder is None:
            await asyncio.to_thread(functools.partial(shutil.rmtree, folder))

    @property
    def base_url(self) -> str:
        """Where the emulator's own pages begin; people may open it in a browser."""
        return self._open_shop.base_url

    @property
    def api_url(self) -> str:
        """The API's address, as a client's setting takes it."""
        return f"{self.base_url}/api/v1"

    @property
    def auth_url(self) -> str:
        """The address before `/oauth/token`."""
        return self.api_url

    @property
    def folder(self) -> Path:
        """Where pictures and journal are: the folder of the settings, or a temporary one."""
        if self._folder is None:
            raise RuntimeError("The emulator is not running.")
        return self._folder

    def script(self, call: str, n: int, fault: Fault) -> None:
        """Let the `n`-th call of a kind (or of "any"), counted from 1 since the start, meet `fault`."""
        self._plan.script(call, n, fault)

    def script_next(self, call: str, *faults: Fault) -> None:
        """Let the next calls of a kind meet `faults`, one each and in order."""
        self._plan.script_next(call, *faults)

    def script_always(self, call: str, fault: Fault | None) -> None:
        """Let every call of a kind meet `fault` until this is taken back with `None`: an outage."""
        self._plan.script_always(call, fault)

    def truth(self) -> Truth:
        """What has really happened so far."""
        return take_truth(self._open_shop)

    def calls(self) -> tuple[Call, ...]:
        """The latest calls, in the order in which they ended."""
        return tuple(self._open_shop.log.calls)

    async def until(self, call: str, n: int) -> None:
        """Wait until `n` calls of a kind are over, answered or not."""
        await self._open_shop.log.until(call, n)

    def issue_token(self, store: int | None = None) -> str:
        """A new good token, for one store or for all."""
        return self._open_shop.tokens.issue(store)

    def expire_token(self, token: str | None = None) -> None:
        """Refuse this token from now on, or every one that is good so far; new ones can be had."""
        self._open_shop.tokens.expire(token)

    def revoke_secret(self) -> None:
        """Exchange the secret token no more."""
        self._open_shop.tokens.revoke_secret()

    @property
    def _open_shop(self) -> Shop:
        if self._shop is None:
            raise RuntimeError("The emulator is not running.")
        return self._shop

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        shop = self._shop
        task = asyncio.current_task()
        if shop is None or task is None:
            raise web.HTTPServiceUnavailable
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        path, _, query = request.raw_path.partition("?")
        route = find_route(path)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if route.kind is CallKind.CONTROL:
            return await control.respond(shop, request, route)
        return await self._serve(shop, request, route, path, query)

    async def _serve(
        self, shop: Shop, request: web.BaseRequest, route: Route, path: str, query: str
    ) -> web.StreamResponse:
        """Serve one call that counts, and remember it whatever becomes of it."""
        begun = self._clock()
        token = api.bearer(request)
        fault = self._plan.draw(route.kind)
        status = 0
        shop.log.begin(route.kind)
        try:
            refusal = api.gate(shop, route, token) if route.kind.is_api else None
            if self.settings.latency[1]:
                await asyncio.sleep(self._latency.uniform(*self.settings.latency))
            if refusal is not None and refusal.answer.status == 429:
                # The limit stands before everything else, faults included.
                fault = None
            act = functools.partial(_act, shop, request, route, query, refusal)
            response, status = await deliver(Line(request=request, stop=shop.stop, act=act), fault)
            return response
        finally:
            shop.log.end(
                Call(
                    at=begun - self._since,
                    seconds=self._clock() - begun,
                    kind=route.kind,
                    method=request.method,
                    path=path.encode("utf-8", "replace").decode(),
                    status=status,
                    fault=fault.kind.value if fault else "",
                    token=fingerprint(token),
                )
            )


async def serve(settings: EmulatorSettings, *, ready: Callable[[Emulator], None]) -> None:
    """Run an emulator until this is cancelled; `ready` is told when it listens."""
    async with Emulator(settings) as emulator:
        ready(emulator)
        await asyncio.Event().wait()


async def _act(
    shop: Shop, request: web.BaseRequest, route: Route, query: str, refusal: CallError | None
) -> Answer:
    """What the call does, and its answer."""
    try:
        if refusal is not None:
            raise refusal
        match route.kind:
            case CallKind.TOKEN:
                return await api.exchange(shop, request, route, query)
            case CallKind.UPLOAD:
                return await upload.upload(shop, request, route, query)
            case CallKind.BUCKET:
                return await upload.picture(shop, request, route, query)
            case _:
                return await api.answer(shop, request, route, query)
    except CallError as refused:
        return refused.answer


def _made_folder(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="tileferry-emulator-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _listener(settings: EmulatorSettings, last_port: int) -> socket.socket:
    """A bound socket: on the port asked for, or else on the last one, or else on any that is free."""
    if not settings.port and last_port:
        try:
            return _bound(settings, last_port)
        except OSError:
            return _bound(settings, 0)
    return _bound(settings, settings.port)


def _bound(settings: EmulatorSettings, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if settings.receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.receive_buffer)
        # On Windows this option would let two programs share the port.
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, port))
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
