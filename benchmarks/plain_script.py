"""What people write instead: a script of an afternoon, by somebody who knows the trade, to be measured against.

    ECWID_TOKEN=... python -m benchmarks.plain_script API_URL STORE_ID MANIFEST RESULTS

Sixteen images at once, aiohttp's own form for the body, the result asked for at once and then every 0.2 seconds,
every failure tried again after a wait that doubles. It knows nothing of a budget, and a 429 is a failure like any
other. What became of each image goes to RESULTS as it comes: tile_id, image_id, status.
"""

from __future__ import annotations

import asyncio
import csv
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

AT_ONCE = 16
ASK_EVERY = 0.2
TRIES = 8
FIRST_WAIT = 0.5

_T = TypeVar("_T")


class Script:
    """One store, and the sessions that talk to it; the token stays with the API's own."""

    def __init__(self, store_url: str, api: aiohttp.ClientSession, uploads: aiohttp.ClientSession) -> None:
        self._store_url = store_url
        self._api = api
        self._uploads = uploads

    async def carry(self, tile: str, path: Path) -> str:
        """Upload one picture and wait until it is there; returns its image id."""
        url, image_id = await trying(lambda: self._reserve(tile))
        await trying(lambda: self._upload(url, path))
        while True:
            if await trying(lambda: self._is_there(image_id)):
                return image_id
            await asyncio.sleep(ASK_EVERY)

    async def _reserve(self, tile: str) -> tuple[str, str]:
        url = URL(f"{self._store_url}/tile/{quote(tile, safe='')}/image", encoded=True)
        async with self._api.post(url, json={"acceptHeader": "multipart/form-data"}) as answer:
            answer.raise_for_status()
            slot = await answer.json()
            return slot["url"], slot["id"]

    async def _upload(self, url: str, path: Path) -> None:
        form = aiohttp.FormData()
        content = await asyncio.to_thread(path.read_bytes)
        form.add_field("file", content, filename=path.name, content_type="image/jpeg")
        async with self._uploads.post(URL(url, encoded=True), data=form) as answer:
            answer.raise_for_status()

    async def _is_there(self, image_id: str) -> bool:
        url = URL(f"{self._store_url}/image/{quote(image_id, safe='')}", encoded=True)
        async with self._api.get(url) as answer:
            if answer.status == 404:
                return False
            answer.raise_for_status()
            return bool((await answer.json()).get("set"))


async def trying(act: Callable[[], Awaitable[_T]]) -> _T:
    """Do it, and when it fails do it again, after a wait that doubles."""
    for number in range(TRIES - 1):
        try:
            return await act()
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(FIRST_WAIT * 2**number * random.uniform(0.5, 1.5))
    return await act()


async def carry_all(api_url: str, store: str, manifest: Path, results: Path) -> None:
    """Every row of the manifest, sixteen at once."""
    places = asyncio.Semaphore(AT_ONCE)
    headers = {"Authorization": f"Bearer {os.environ['ECWID_TOKEN']}"}
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [(row["tileId"], manifest.parent / row["path"]) for row in csv.DictReader(file)]
    async with aiohttp.ClientSession(headers=headers) as api, aiohttp.ClientSession() as uploads:
        script = Script(f"{api_url}/{store}", api, uploads)
        # A line at a time, so that it can be read however the script ends.
        with results.open("w", encoding="utf-8", newline="", buffering=1) as out:
            table = csv.writer(out)
            table.writerow(("tile_id", "image_id", "status"))

            async def one(tile: str, path: Path) -> None:
                async with places:
                    try:
                        table.writerow((tile, await script.carry(tile, path), "uploaded"))
                    except (aiohttp.ClientError, TimeoutError):
                        table.writerow((tile, "", "failed"))

            await asyncio.gather(*(one(tile, path) for tile, path in rows))


if __name__ == "__main__":
    asyncio.run(carry_all(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
