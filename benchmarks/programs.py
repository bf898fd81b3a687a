"""The programs of the budget benchmark: emulators and their clients, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp

from benchmarks.pictures import make
from benchmarks.traffic import IMAGES_A_MINUTE, RATE, THROTTLED, api_calls
from tileferry.emulator import Call, CallKind, Emulator, EmulatorSettings, serve
from tileferry.model import ImageKind

SETTINGS = EmulatorSettings(rate=RATE, latency=(0.05, 0.3), processing=(0.3, 2.0))

ENDING = 40.0
"""Seconds that a program gets to end by itself after it was asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running emulator; `since` is when its clock began, on this machine's."""

    api_url: str
    since: float

    def now(self) -> float:
        """Seconds on the emulator's clock."""
        return time.monotonic() - self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A program to run against an emulator; its results tell which images it believes to be in the store."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str]
    results: Path

    @property
    def said(self) -> Path:
        """Where what it says on its standard error is kept."""
        return self.results.with_suffix(".log")

    def confirmed(self) -> dict[str, str]:
        """The image id of each tile whose image the program says is there."""
        if not self.results.exists():
            return {}
        with self.results.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["status"] == "uploaded"]
        return {row["tile_id"]: row["image_id"] for row in rows}


def _serve(settings: EmulatorSettings, telling: Connection) -> None:
    def ready(emulator: Emulator) -> None:
        telling.send(Site(api_url=emulator.api_url, since=time.monotonic()))

    asyncio.run(serve(settings, ready=ready))


@contextlib.asynccontextmanager
async def emulated(settings: EmulatorSettings, folder: Path) -> AsyncIterator[Site]:
    """An emulator in its own process, which keeps what it keeps in a new folder inside `folder`."""
    context = multiprocessing.get_context("spawn")
    hearing, telling = context.Pipe(duplex=False)
    place = Path(tempfile.mkdtemp(prefix="emulator-", dir=folder))
    process = context.Process(target=_serve, args=(replace(settings, folder=place), telling), daemon=True)
    process.start()
    # Else its death would not be heard.
    telling.close()
    try:
        yield await asyncio.to_thread(hearing.recv)
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


async def looked_up(site: Site, page: str) -> str:
    """One of the emulator's own pages."""
    url = f"{site.api_url.removesuffix('/api/v1')}/_emulator/{page}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        answer.raise_for_status()
        return await answer.text()


async def calls_of(site: Site) -> list[Call]:
    """The API calls that the emulator has seen."""
    lines = (await looked_up(site, "calls")).splitlines()
    facts = [json.loads(line) for line in lines]
    return api_calls(Call(**{**fact, "kind": CallKind(fact["kind"])}) for fact in facts)


def prepare(folder: Path, seconds: float, stores: Sequence[int] = ()) -> Path:
    """A manifest of more small pictures than the budget allows to carry in that time, each for a tile of its own.

    With `stores` each of them gets all pictures, in turn with the others.
    """
    folder.mkdir()
    number = round(seconds / 60 * IMAGES_A_MINUTE * 1.1) + 100
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("tileId", "path", *(["storeId"] if stores else [])))
        for n in range(number):
            (folder / f"{n}.jpg").write_bytes(make(ImageKind.JPEG, seed=n, approx_bytes=3000 + n % 17 * 1000))
            for store in stores:
                table.writerow((f"{store}-{n}", f"{n}.jpg", store))
            if not stores:
                table.writerow((str(n), f"{n}.jpg"))
    return folder / "manifest.csv"


def tileferry(site: Site, manifest: Path, folder: Path) -> Client:
    """The command line, as it comes."""
    return _tileferry(site, manifest, folder, SETTINGS.store_id, {"ECWID_TOKEN": SETTINGS.token})


def tileferry_of_one(site: Site, manifest: Path, folder: Path, store: int) -> Client:
    """The command line for one of several stores, with a token of its own, in exchange for the app's."""
    return _tileferry(site, manifest, folder, store, {"ECWID_SECRET_TOKEN": SETTINGS.secret_token})


def tileferry_of_all(site: Site, manifest: Path, folder: Path) -> Client:
    """One run of the command line for all stores of a manifest that names them, each with a token of its own."""
    words = ("upload", str(manifest), "--api-url", site.api_url)
    environment = {"ECWID_SECRET_TOKEN": SETTINGS.secret_token, "XDG_STATE_HOME": str(folder)}
    return _command("tileferry", words, environment, folder)


def _tileferry(site: Site, manifest: Path, folder: Path, store: int, environment: Mapping[str, str]) -> Client:
    ledger = folder / f"{store}.sqlite3"
    words = ("upload", str(manifest), "--api-url", site.api_url, "--store", str(store), "--ledger", str(ledger))
    return _command(f"tileferry-{store}", words, environment, folder)


def _command(name: str, words: Sequence[str], environment: Mapping[str, str], folder: Path) -> Client:
    results = folder / f"{name}.csv"
    words = ("-m", "tileferry", *words, "-q", "--results", str(results))
    return Client(name="tileferry", words=words, environment=environment, results=results)


def plain_script(site: Site, manifest: Path, folder: Path) -> Client:
    """What people write instead."""
    results = folder / "plain.csv"
    words = ["-m", "benchmarks.plain_script", site.api_url, str(SETTINGS.store_id), str(manifest), str(results)]
    return Client(name="plain script", words=words, environment={"ECWID_TOKEN": SETTINGS.token}, results=results)


async def run_for(seconds: float, *clients: Client) -> float:
    """Run programs side by side, then ask them to stop; returns the moment of that.

    Raises `SystemExit` when one of them ended too early or in disorder.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ECWID_")}
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(_program(client, environment)) for client in clients]
        endings = [asyncio.create_task(process.wait()) for process in running]
        early, _ = await asyncio.wait(endings, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if early:
            gone = [client for client, ending in zip(clients, endings, strict=True) if ending.done()]
            said = [f"{client.name} ended before its time: {client.said.read_text()}" for client in gone]
            raise SystemExit("\n".join(said))
        stopped = time.monotonic()
        for process in running:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(ENDING):
            await asyncio.gather(*endings)
    return stopped


@contextlib.asynccontextmanager
async def _program(client: Client, environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    with client.said.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *client.words, env={**environment, **client.environment}, stderr=said
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def another_program(site: Site, calls_a_minute: int) -> None:
    """Call at an even pace with the same token, and wait when a 429 says so; until cancelled."""
    headers = {"Authorization": f"Bearer {SETTINGS.token}"}
    url = f"{site.api_url}/{SETTINGS.store_id}/page?published=true"
    async with aiohttp.ClientSession(headers=headers) as session:
        due = time.monotonic()
        while True:
            async with session.get(url) as answer:
                pause = float(answer.headers["Retry-After"]) if answer.status == THROTTLED else 0.0
            due = max(due + 60 / calls_a_minute, time.monotonic() + pause)
            await asyncio.sleep(due - time.monotonic())
