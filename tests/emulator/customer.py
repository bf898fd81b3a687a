"""A plain client of the emulator that does exactly as it is told, right or wrong."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yarl import URL

if TYPE_CHECKING:
    import aiohttp

    from tileferry.emulator import Emulator

BOUNDARY = "frontier"
GIF = b"GIF89a" + bytes((4, 0, 3, 0)) + b"\x00;"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes((0, 0, 11, 184, 0, 0, 7, 208)) + b"\x08\x06\x00\x00\x00"


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the status, the headers in lower case and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - a test looks into whatever came
        return json.loads(self.body)

    @property
    def code(self) -> tuple[int, str]:
        """Status and the documented error code."""
        return self.status, self.json["errorCode"]


def form(
    content: bytes = GIF, *, media_type: str = "image/gif", filename: str = "a.gif", name: str = "file"
) -> bytes:
    """A well-formed upload body."""
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        f"Content-Type: {media_type}\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


async def serving(emulator: Emulator, calls: int) -> None:
    """Wait until the emulator has served that many calls at once."""
    while emulator.truth().peak_concurrency < calls:  # noqa: ASYNC110 - it has no event for that
        await asyncio.sleep(0)


class Customer:
    """Speaks to one emulator."""

    def __init__(self, emulator: Emulator, session: aiohttp.ClientSession) -> None:
        self.emulator = emulator
        self.session = session
        self.token: str | None = emulator.settings.token

    async def send(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        token: bool = False,
    ) -> Reply:
        """One request to exactly that URL."""
        headers = dict(headers or {})
        if token and self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        address = URL(url, encoded=True)
        # aiohttp warns about a large body that is no file.
        data = None if body is None else io.BytesIO(body)
        async with self.session.request(method, address, data=data, headers=headers) as response:
            lower = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, lower, await response.read())

    async def api(self, method: str, path: str, **options: Any) -> Reply:  # noqa: ANN401 - passed on
        """One call of the API, with the token."""
        return await self.send(method, f"{self.emulator.api_url}{path}", token=True, **options)

    async def reserve(self, tile: str = "cover", store: int = 1003) -> Reply:
        """Reserve a slot as it should be done."""
        return await self.api(
            "POST",
            f"/{store}/tile/{quote(tile, safe='')}/image",
            body=b'{"acceptHeader": "multipart/form-data"}',
            headers={"Content-Type": "application/json"},
        )

    async def post(self, url: str, body: bytes | None = None, **headers: str) -> Reply:
        """Upload a body as it should be done."""
        sent = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
        return await self.send("POST", url, body=form() if body is None else body, headers=sent)

    async def result(self, image_id: str, store: int = 1003) -> Reply:
        """Ask for an image."""
        return await self.api("GET", f"/{store}/image/{quote(image_id, safe='')}")

    async def buckets(self) -> Reply:
        """Ask for the bucket addresses: the simplest call with a token."""
        return await self.api("GET", "/1003/image/bucket")

    async def store(self, content: bytes = GIF, tile: str = "cover") -> str:
        """Reserve and upload; the image id."""
        slot = (await self.reserve(tile)).json
        reply = await self.post(slot["url"], form(content))
        assert reply.status == 200
        return str(slot["id"])

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own on which `request` has been written byte for byte."""
        address = URL(self.emulator.base_url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(request)
        return reader, writer
