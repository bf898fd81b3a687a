"""The Instant Site calls: token, buckets, reserve, upload, result.

Every call but the upload goes to the API's host with the token, counts against the budget and is never
redirected. The upload goes to whatever address the API named, byte for byte, without the token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec

from tileferry import answers
from tileferry.addresses import check_upload_url, path_segment
from tileferry.auth import Auth, Credentials
from tileferry.budget import Budget, CoolDown, Urgency
from tileferry.clock import Clock
from tileferry.errors import (
    RejectedError,
    ThrottledError,
    TileferryError,
    TokenRefusedError,
    printable,
)
from tileferry.events import Call, CallEnded, Listener
from tileferry.model import Lease, Slot, StoredImage
from tileferry.multipart import Body
from tileferry.outage import Host
from tileferry.settings import Settings, is_loopback
from tileferry.wire import Answer, exchange, host_of, open_session, post_body

CALL_SECONDS = 120.0
"""Bound on one call as a whole, once its body has left: answers are small. `Timing.answer` bounds the silence."""

UPLOAD_HOST = "the upload host"
"""What the upload host is called in messages; the API may name a different one with every slot."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request(Generic[_T]):
    """One call to the API: `about` names what is asked for, in messages."""

    call: Call
    method: str
    path: str
    about: str
    decode: Callable[[Answer], _T]
    json: bytes | None = None
    urgency: Urgency = Urgency.RESULT
    missing_is_answer: bool = False


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What goes to one side: whether its host is away, and whether it asked for a pause."""

    host: Host
    cool_down: CoolDown

    def close(self) -> None:
        self.cool_down.close()
        self.host.close()


class Api:
    """One store at the Instant Site API. Open it with `open_api`."""

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        *,
        sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession],
        past: Sequence[Lease],
        lease: Callable[[Lease], asyncio.Future[object]] | None,
        clock: Clock,
        tell: Listener,
    ) -> None:
        self._settings = settings
        self._timing = settings.timing
        self._clock = clock
        self._tell = tell
        self._session, self._upload_session = sessions
        self._auth_url = credentials.auth_url
        self._auth = Auth(credentials, self._exchange_token, clock)
        self._api = self._traffic(host_of(settings.api_url))
        self._uploads = self._traffic("the upload host")
        self._budget = Budget(
            settings.pace.rate,
            margin=settings.pace.margin,
            clock=clock,
            cool_down=self._api.cool_down,
            past=past,
            lease=lease,
        )

    async def buckets(self) -> Mapping[str, str]:
        """The address of each image bucket: the cheapest call there is, hence also the probe of the token."""
        return await self._call(
            _Request(
                call=Call.BUCKETS, method="GET", path="image/bucket", about="the store", decode=answers.buckets
            )
        )

    async def reserve(self, tile_id: str) -> Slot:
        """Reserve an upload slot for a tile. Repeated after a lost answer, it leaves a slot unused: harmless.

        Raises `RejectedError` when the tile is unknown or the upload address cannot be trusted.
        """
        slot = await self._call(
            _Request(
                call=Call.RESERVE,
                method="POST",
                path=f"tile/{path_segment(tile_id)}/image",
                about=f"tile {printable(tile_id)}",
                decode=answers.slot,
                json=msgspec.json.encode({"acceptHeader": "multipart/form-data"}),
                urgency=Urgency.RESERVE,
            )
        )
        check_upload_url(slot.url, api_url=self._settings.api_url)
        return slot

    async def result(self, image_id: str) -> StoredImage | None:
        """The image, or `None` while (or because) it is not there."""
        return await self._call(
            _Request(
                call=Call.RESULT,
                method="GET",
                path=f"image/{path_segment(image_id)}",
                about=f"image {printable(image_id)}",
                decode=answers.stored_image,
                missing_is_answer=True,
            )
        )

    async def upload(self, slot: Slot, body: Body) -> None:
        """POST the picture to its slot. Any 2xx is success (undocumented, hence nothing else is relied on).

        Raises `SlotRefusedError`, `RejectedError`, or `TransientError` whose `delivery` says whether the picture
        may have arrived; and what reading the picture failed with.
        """
        while True:
            async with self._uploads.host.attempt(slot.image_id) as passage:
                await self._uploads.cool_down.over()
                async with self._upload_turn() as on_leaving:
                    if passage.stale():
                        continue
                    return await self._upload_once(slot, body, on_leaving)

    def close(self) -> None:
        """Drop all timers."""
        self._budget.close()
        self._api.close()
        self._uploads.close()

    def _traffic(self, name: str) -> _Traffic:
        host = Host(
            name,
            concurrency=self._settings.pace.concurrency,
            timing=self._timing,
            clock=self._clock,
            tell=self._tell,
        )
        return _Traffic(host, CoolDown(name, self._clock, self._tell))

    async def _call(self, request: _Request[_T]) -> _T:
        while True:
            async with (
                # The probe is about no image: when it keeps failing, it is the host that is away.
                self._api.host.attempt(None if request.call is Call.BUCKETS else request.path) as passage,
                self._turn(request.urgency) as on_leaving,
            ):
                if passage.stale():
                    continue
                token = await self._auth.token()
                try:
                    found = await self._call_with(token, request, on_leaving)
                except TokenRefusedError as refusal:
                    await self._auth.refused(token, refusal)
                    continue
                self._auth.accepted(token)
                return found

    async def _upload_once(self, slot: Slot, body: Body, on_leaving: Callable[[], None] | None) -> None:
        with self._recorded(Call.UPLOAD, self._uploads.cool_down.begin) as record:
            record.answer = answer = await post_body(
                self._upload_session,
                slot.url,
                body,
                stall=self._timing.stall,
                total=CALL_SECONDS,
                on_leaving=on_leaving,
            )
            answers.check_upload(
                answer,
                host=host_of(slot.url),
                now=self._clock.wall(),
                default_pause=self._timing.cool_down,
            )

    async def _call_with(self, token: str, request: _Request[_T], on_leaving: Callable[[], None]) -> _T:
        with self._recorded(request.call, self._budget.throttled) as record:
            record.answer = answer = await exchange(
                self._session,
                request.method,
                f"{self._settings.api_url}/{self._settings.store_id}/{request.path}",
                total=CALL_SECONDS,
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
                json=request.json,
                on_leaving=on_leaving,
            )
            if not (request.missing_is_answer and answers.is_missing(answer)):
                self._check(answer, about=request.about, secret=token)
            return request.decode(answer)

    async def _exchange_token(self, secret_token: str) -> tuple[str, float | None]:
        query = urlencode(
            {
                "grant_type": "authorization_code",
                "site_id": str(self._settings.store_id),
                "code": secret_token,
            }
        )
        with self._recorded(Call.TOKEN, self._budget.throttled) as record:
            # The secret travels in the query because that is how the exchange is documented.
            record.answer = answer = await exchange(
                self._session, "POST", f"{self._auth_url}/oauth/token?{query}", total=CALL_SECONDS
            )
            try:
                self._check(answer, about="the app's secret token", secret=secret_token)
            except (RejectedError, TokenRefusedError) as exc:
                raise TokenRefusedError(
                    f"the app's secret token was not accepted (HTTP {answer.status}); check ECWID_SECRET_TOKEN "
                    "and --store."
                ) from exc
            return answers.token(answer)

    def _check(self, answer: Answer, *, about: str, secret: str) -> None:
        # An error message may quote what it was sent; ours must not.
        harmless = replace(answer, body=answer.body.replace(secret.encode(), b"[secret]"))
        answers.check_api(harmless, about=about, now=self._clock.wall(), default_pause=self._timing.cool_down)

    @contextlib.asynccontextmanager
    async def _turn(self, urgency: Urgency) -> AsyncIterator[Callable[[], None]]:
        turn = await self._budget.turn(urgency)
        try:
            yield turn.left
        finally:
            turn.give_back()

    @contextlib.asynccontextmanager
    async def _upload_turn(self) -> AsyncIterator[Callable[[], None] | None]:
        if not self._settings.pace.count_uploads:
            yield None
            return
        async with self._turn(Urgency.UPLOAD) as on_leaving:
            yield on_leaving

    @contextlib.contextmanager
    def _recorded(self, call: Call, throttled: Callable[[float], None]) -> Iterator[_Record]:
        """Tell the listeners how the call ended, and let a request for a pause hold for all calls of its side."""
        record = _Record()
        started = self._clock.now()
        problem = "cancelled"
        try:
            yield record
            problem = ""
        except ThrottledError as exc:
            problem = str(exc)
            throttled(exc.pause)
            raise
        except TileferryError as exc:
            problem = str(exc)
            raise
        finally:
            status = record.answer.status if record.answer is not None else None
            self._tell(CallEnded(call=call, status=status, seconds=self._clock.now() - started, problem=problem))


@dataclass(slots=True)
class _Record:
    answer: Answer | None = None


@contextlib.asynccontextmanager
async def open_api(
    settings: Settings,
    credentials: Credentials,
    *,
    clock: Clock,
    tell: Listener,
    past: Sequence[Lease] = (),
    lease: Callable[[Lease], asyncio.Future[object]] | None = None,
) -> AsyncIterator[Api]:
    """The API of one store, with a session of its own for the API and another, tokenless one for uploads.

    `past` and `lease` keep the budget over restarts, see `Budget`.
    """
    user_agent = f"tileferry/{version('tileferry')}"
    local = is_loopback(urlsplit(settings.api_url).hostname or "")
    connections = settings.pace.concurrency
    async with (
        open_session(timing=settings.timing, connections=connections, user_agent=user_agent) as session,
        open_session(
            timing=settings.timing, connections=connections, user_agent=user_agent, public_only=not local
        ) as upload_session,
    ):
        api = Api(
            settings,
            credentials,
            sessions=(session, upload_session),
            past=past,
            lease=lease,
            clock=clock,
            tell=tell,
        )
        try:
            yield api
        finally:
            api.close()
