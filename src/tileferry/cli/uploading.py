"""`tileferry upload`: one manifest into one store, to a summary and an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tileferry.auth import Credentials
from tileferry.cli.closing import Closing
from tileferry.cli.screen import Screen, Taste, counting, open_screen, ticking
from tileferry.cli.signals import Interruption, run_interruptibly
from tileferry.errors import FatalError, TileferryError, UsageError, printable
from tileferry.fleet import Berth, Fleet, open_fleet
from tileferry.manifest import Manifest, open_manifest
from tileferry.results import check_results_path, write_results
from tileferry.run import open_run
from tileferry.settings import EMULATOR_HOST, Pace, Settings, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from tileferry.model import Outcome
    from tileferry.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What holds for every store of an upload; see `Settings`, which has one store besides."""

    api_url: str
    ledger: Path | None
    confirm: bool
    force: bool
    field_name: str
    pace: Pace
    timing: Timing

    def for_store(self, store_id: int) -> Settings:
        """The settings for one store. Raises `UsageError` where they make no sense."""
        return Settings(store_id=store_id, **{item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One upload as asked for: to which stores, where to, and what was typed for it.

    Several berths are for a manifest that names a store for each row; `default_store` is for those that name none.

    `arguments` are the words after `tileferry`, `manifest` is that one of them which named the manifest.
    """

    berths: tuple[Berth, ...]
    default_store: int | None
    results: Path | None
    arguments: tuple[str, ...]
    manifest: str


def upload(
    manifest: Path,
    store: int | None,
    options: Options,
    taste: Taste,
    *,
    results: Path | None = None,
    token_file: Path | None = None,
    auth_url: str | None = None,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Upload to the API that `options` name; returns the exit code. `auth_url` is the API's where none is given.

    Raises `FatalError` when there is nothing to begin with; what ends the run later is said on the screen.
    """
    opened = _opened(manifest, results)
    berths = [
        Berth(
            options.for_store(store_id),
            Credentials.from_environment(
                environment, store_id=store_id, token_file=token_file, auth_url=auth_url or options.api_url
            ),
        )
        for store_id in stores_of(opened, store, options)
    ]
    job = Job(
        berths=tuple(berths), default_store=store, results=results, arguments=arguments, manifest=str(manifest)
    )
    with open_screen(taste, environment) as screen:
        warn_of_readers(token_file, screen)
        return run_on(screen, lambda interruption: _ferry(job, opened, screen, interruption), environment)


def upload_to_emulator(
    manifest: Path,
    store: int | None,
    options: Options,
    taste: Taste,
    *,
    folder: Path | None = None,
    results: Path | None = None,
    arguments: tuple[str, ...] = (),
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Upload to an emulator that lives as long as this command; returns the exit code.

    All it leaves is in `folder`, or else in a new temporary folder, which stays because a person wants to
    look. Raises `FatalError` as `upload` does.
    """
    from tileferry.emulator import EmulatorSettings

    opened = _opened(manifest, results)
    stores = stores_of(opened, store or EmulatorSettings().store_id, options)
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="tileferry-"))
        arguments = (*arguments, "--emulator-folder", str(folder))
    place = folder

    async def work(screen: Screen, interruption: Interruption) -> int:
        async with _emulated(options, stores, place) as berths:
            job = Job(
                berths=berths,
                default_store=store or stores[0],
                results=results or place / "results.csv",
                arguments=arguments,
                manifest=str(manifest),
            )
            address = berths[0].settings.api_url
            screen.note(f"emulator at {address}; everything it keeps is in {printable(str(place))}")
            return await _ferry(job, opened, screen, interruption)

    with open_screen(taste, environment) as screen:
        code = run_on(screen, lambda interruption: work(screen, interruption), environment)
        screen.note(
            "To look at the stored images, run this and open the address it shows:\n"
            f"  tileferry emulator --folder {printable(str(place))}"
        )
        return code


def stores_of(manifest: Manifest, store: int | None, options: Options) -> list[int]:
    """The stores to upload to: those that the manifest names, in its order, or else `store`.

    Raises `UsageError` when there is none, or when one ledger is to serve several.
    """
    named: dict[int, None] = {}
    if manifest.names_stores:
        homes = (row.store_id or store for row in manifest.rows())
        named = dict.fromkeys(home for home in homes if home is not None)
    elif store is not None:
        named = {store: None}
    if not named:
        raise UsageError("which store? Give its id with --store, or set ECWID_STORE_ID.")
    if len(named) > 1 and options.ledger is not None:
        raise UsageError(
            "the manifest names several stores, and each has a ledger of its own; leave --ledger out."
        )
    return list(named)


def warn_of_readers(token_file: Path | None, screen: Screen) -> None:
    """Say so if others can read the token."""
    if token_file is not None and readable_by_others(token_file):
        screen.warn(
            f"others on this computer can read {printable(str(token_file))}; "
            "keep it to yourself (chmod 600), for whoever has the token can change your site."
        )


def readable_by_others(path: Path) -> bool:
    """Whether the file's permissions let anyone but its owner read it (where there are such permissions)."""
    return os.name != "nt" and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def run_on(screen: Screen, work: Callable[[Interruption], Awaitable[int]], environment: Mapping[str, str]) -> int:
    """Run `work` to its exit code; a fatal error is said on the screen, in the form that it speaks."""
    try:
        return run_interruptibly(work, environment)
    except FatalError as exc:
        screen.progress.close()
        screen.warn(str(exc), exc.exit_code)
        return exc.exit_code


@contextlib.asynccontextmanager
async def _emulated(options: Options, stores: list[int], folder: Path) -> AsyncIterator[tuple[Berth, ...]]:
    """A running emulator of `stores`: settings as they have to be for it, and what it takes for credentials."""
    from tileferry.emulator import Emulator, EmulatorSettings

    # Whoever lifts the rate wants to see how fast it goes, and not the emulator's limit.
    defaults = EmulatorSettings()
    emulation = replace(
        defaults,
        folder=folder,
        store_id=stores[0],
        store_ids=frozenset(stores),
        field_name=options.field_name,
        rate=max(defaults.rate or 0, options.pace.rate),
    )
    emulator = Emulator(emulation)
    try:
        await emulator.start()
    except (OSError, ValueError) as exc:
        raise UsageError(
            f"the emulator's folder {printable(str(folder))} cannot be used: {exc}; name another."
        ) from exc
    try:
        yield tuple(
            Berth(
                replace(
                    options.for_store(store_id),
                    api_url=emulator.api_url,
                    ledger_host=EMULATOR_HOST,
                    ledger=options.ledger
                    or folder / ("ledger.sqlite3" if len(stores) == 1 else f"ledger-{store_id}.sqlite3"),
                ),
                Credentials(token=emulation.token),
            )
            for store_id in stores
        )
    finally:
        await emulator.stop()


async def _ferry(job: Job, manifest: Manifest, screen: Screen, interruption: Interruption) -> int:
    """Upload all rows, write the results and say how it ended; returns the exit code.

    Raises the `FatalError` that ended the run, after the results and the summary of what was done before it.
    """
    run: Run | Fleet | None = None
    ended: FatalError | None = None
    unwritten: TileferryError | None = None
    try:
        with ticking(screen.progress), counting(manifest, screen):
            async with _open(job, manifest, screen) as (run, outcomes):
                interruption.drain_with(run.drain)
                ended = await _carry(outcomes)
                unwritten = await _write_results(job, manifest, run)
    except asyncio.CancelledError:
        screen.progress.close()
        screen.note("ended at once; nothing is lost, the same command goes on from here")
        raise
    except FatalError as exc:
        if run is None:
            raise
        # The run could not be closed in order, most often for the same reason that ended it.
        ended = ended or exc
    results = None if unwritten else job.results
    screen.conclude(Closing(summary=run.summary, results=results, arguments=job.arguments, manifest=job.manifest))
    if unwritten is not None and unwritten is not ended:
        screen.warn(str(unwritten), UsageError.exit_code)
    if ended is not None:
        raise ended
    if interruption.number is not None:
        return interruption.exit_code
    if not run.summary.complete:
        return 1
    return 0 if unwritten is None else UsageError.exit_code


@contextlib.asynccontextmanager
async def _open(
    job: Job, manifest: Manifest, screen: Screen
) -> AsyncIterator[tuple[Run | Fleet, AsyncIterator[Outcome]]]:
    """The run over one store, or the fleet over several, with the outcomes to come."""
    path = str(manifest.path.absolute())
    if len(job.berths) == 1:
        (berth,) = job.berths
        async with open_run(
            berth.settings,
            berth.credentials,
            listeners=screen.listeners,
            manifest=path,
            extra_columns=manifest.extra_columns,
        ) as run:
            yield run, run.upload(manifest.rows())
        return
    async with open_fleet(
        job.berths,
        listeners=screen.listeners,
        manifest=path,
        extra_columns=manifest.extra_columns,
        default_store=job.default_store,
    ) as fleet:
        yield fleet, fleet.upload(manifest.rows)


async def _carry(outcomes: AsyncIterator[Outcome]) -> FatalError | None:
    """Let all rows come to their outcomes; returns what ended the run before its time."""
    try:
        # The listeners have told each outcome already.
        async for _outcome in outcomes:
            pass
    except FatalError as exc:
        return exc
    return None


async def _write_results(job: Job, manifest: Manifest, run: Run | Fleet) -> TileferryError | None:
    """Write the results file, if one is wanted; returns what prevented it.

    That is no reason to lose the summary: the ledger holds every result, and `tileferry results` writes it.
    """
    if job.results is None:
        return None
    try:
        await run.flush()
        await asyncio.to_thread(write_results, job.results, run.outcomes(), manifest.extra_columns)
    except TileferryError as exc:
        return exc
    return None


def _opened(manifest: Path, results: Path | None) -> Manifest:
    """The manifest, once it is clear that the results can be written too: nothing is sent in vain."""
    if results is not None:
        check_results_path(results)
    return open_manifest(manifest)
