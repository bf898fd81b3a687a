"""What is known of every image of one store, one method per fact.

Intent comes before the act: an image's id and upload URL are on disk before the first byte of its body leaves,
so whatever happens, the ledger names every image that could exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tileferry.clock import Clock
from tileferry.errors import LedgerError
from tileferry.events import Summary
from tileferry.journal import Journal, open_journal
from tileferry.model import ImageKind, Lease, Outcome, Slot, SourceImage, Stage, StoredImage
from tileferry.schema import readable, storable

RACY_NS = 2_000_000_000
"""Nanoseconds: a file changed so shortly before it was read may change again within the same timestamp."""

RUNS_KEPT = 10
"""The rows of this many runs are kept for later exports; what is known of the images is kept for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the ledger knew of an image when a row asked for it.

    `slot` and `age` (seconds since a body may last have been sent to it) are there when an earlier run left the
    image on its way; `stored` when it is confirmed; `first_line` when a row of this run asked for it already.
    """

    upload_id: int
    stage: Stage
    image_id: str = ""
    slot: Slot | None = None
    age: float = 0.0
    stored: StoredImage | None = None
    first_line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """An image that has a slot and is not confirmed: it is in the store already, will be soon, or never was sent.

    `stage` is reserved or sent; `age` counts seconds since a body may last have been sent.
    """

    upload_id: int
    tile_id: str
    image_id: str
    stage: Stage
    age: float


LEASES_KEPT = 180.0
"""Seconds; the API counts over one minute, and a margin may be set on top of that."""


class Ledger:
    """The ledger of one store during one run. Open it with `open_ledger`."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self.path = journal.path
        self.run_id = 0
        self._journal = journal
        self._clock = clock

    async def begin_run(self, manifest: str, extra_columns: Sequence[str] = ()) -> int:
        """A run begins; the rows of old ones make room."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> int:
            connection.execute(
                "DELETE FROM rows WHERE run_id NOT IN (SELECT id FROM runs ORDER BY id DESC LIMIT ?)",
                (RUNS_KEPT - 1,),
            )
            cursor = connection.execute(
                "INSERT INTO runs (started_at, process_id, manifest, extra_columns) VALUES (?, ?, ?, ?)",
                (now, os.getpid(), storable(manifest), json.dumps(list(extra_columns))),
            )
            return cursor.lastrowid or 0

        self.run_id = await self._journal.write(work)
        return self.run_id

    async def end_run(self, summary: Summary) -> None:
        """The run is over."""
        text = json.dumps(msgspec.to_builtins(summary, enc_hook=str))
        now = self._clock.wall()
        await self._journal.write(
            lambda connection: connection.execute(
                "UPDATE runs SET ended_at = ?, summary = ? WHERE id = ?", (now, text, self.run_id)
            )
        )

    async def learned_buckets(self, urls: Mapping[str, str]) -> None:
        """The addresses of the buckets, as the API tells them today."""
        await self._journal.write(
            lambda connection: connection.executemany(
                "INSERT INTO buckets (name, url) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET url = excluded.url",
                [(storable(name), storable(url)) for name, url in urls.items()],
            )
        )

    async def leases(self) -> list[Lease]:
        """What runs of the last minutes may have used of the API's budget."""
        since = self._clock.wall() - LEASES_KEPT

        def work(connection: sqlite3.Connection) -> list[Lease]:
            connection.execute("DELETE FROM leases WHERE until < ?", (since,))
            return [Lease(*found) for found in connection.execute("SELECT calls, until FROM leases")]

        return await self._journal.write(work)

    def lease(self, lease: Lease) -> asyncio.Future[object]:
        """Calls are about to be made; they may when the future is done."""
        since = self._clock.wall() - LEASES_KEPT

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM leases WHERE until < ?", (since,))
            connection.execute("INSERT INTO leases (calls, until) VALUES (?, ?)", (lease.calls, lease.until))

        return self._journal.written(work)

    async def known(self, path: Path, size: int, mtime_ns: int) -> SourceImage | None:
        """What `path` held when it had this size and time, if that was recorded."""

        def work(connection: sqlite3.Connection) -> SourceImage | None:
            found = connection.execute(
                "SELECT digest, kind FROM files WHERE path = ? AND size = ? AND mtime_ns = ?",
                (os.fsencode(path), size, mtime_ns),
            ).fetchone()
            if found is None:
                return None
            return SourceImage(path=path, kind=ImageKind(found[1]), size=size, digest=found[0], mtime_ns=mtime_ns)

        return await self._journal.write(work)

    async def claim(self, line: int, tile_id: str, image: SourceImage, *, force: bool = False) -> Claim:
        """A row asks for an image on a tile. With `force` it is to be uploaded anew, whatever became of it."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> Claim:
            _remember_file(connection, image, now)
            tile = storable(tile_id)
            connection.execute(
                "INSERT INTO uploads (tile_id, digest, size, stage, changed_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (tile_id, digest) DO NOTHING",
                (tile, image.digest, image.size, Stage.CLAIMED.value, now),
            )
            claim = _claim(connection, tile, image.digest, self.run_id, now)
            if claim.first_line is not None:
                return claim
            if force:
                connection.execute(
                    "UPDATE uploads SET stage = ?, slot_id = NULL, stored = NULL WHERE id = ?",
                    (Stage.CLAIMED.value, claim.upload_id),
                )
                claim = Claim(upload_id=claim.upload_id, stage=Stage.CLAIMED)
            connection.execute(
                "UPDATE uploads SET seen_run = ?, seen_line = ? WHERE id = ?",
                (self.run_id, line, claim.upload_id),
            )
            return claim

        return await self._journal.write(work)

    async def unfinished(self) -> list[Unfinished]:
        """All images that are reserved or sent, of whatever run, the oldest first."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> list[Unfinished]:
            found = connection.execute(
                "SELECT uploads.id, tile_id, image_id, stage, coalesce(sent_at, reserved_at) FROM uploads "
                "JOIN slots ON slots.id = slot_id WHERE stage IN (?, ?) ORDER BY slots.id",
                (Stage.RESERVED.value, Stage.SENT.value),
            )
            return [
                Unfinished(
                    upload_id=upload_id,
                    tile_id=readable(tile_id),
                    image_id=readable(image_id),
                    stage=Stage(stage),
                    age=max(0.0, now - touched_at),
                )
                for upload_id, tile_id, image_id, stage, touched_at in found
            ]

        return await self._journal.write(work)

    async def reserved(self, upload_id: int, slot: Slot) -> None:
        """A slot is there; from the moment this returns a body may be sent to it."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> None:
            cursor = connection.execute(
                "INSERT INTO slots (upload_id, image_id, url, reserved_at) VALUES (?, ?, ?, ?)",
                (upload_id, storable(slot.image_id), storable(slot.url), now),
            )
            connection.execute(
                "UPDATE uploads SET stage = ?, slot_id = ?, changed_at = ? WHERE id = ?",
                (Stage.RESERVED.value, cursor.lastrowid, now, upload_id),
            )

        await self._journal.write(work)

    def sent(self, upload_id: int) -> None:
        """The upload host has accepted a body. Not awaited: were it lost, the image would be asked about."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> None:
            _to_stage(connection, upload_id, Stage.SENT, now)
            connection.execute(
                "UPDATE slots SET sent_at = ? WHERE id = (SELECT slot_id FROM uploads WHERE id = ?)",
                (now, upload_id),
            )

        self._journal.post(work)

    async def confirmed(self, upload_id: int, stored: StoredImage) -> None:
        """The image exists. Its upload URL has no more use."""
        now = self._clock.wall()
        text = msgspec.json.encode(stored).decode()

        def work(connection: sqlite3.Connection) -> None:
            _to_stage(connection, upload_id, Stage.CONFIRMED, now)
            connection.execute("UPDATE uploads SET stored = ? WHERE id = ?", (text, upload_id))
            connection.execute("UPDATE slots SET url = NULL WHERE upload_id = ?", (upload_id,))

        await self._journal.write(work)

    async def slot_lost(self, upload_id: int) -> None:
        """The slot is refused and no image is behind it: a new one is needed."""
        now = self._clock.wall()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE slots SET refused_at = ?, url = NULL "
                "WHERE id = (SELECT slot_id FROM uploads WHERE id = ?)",
                (now, upload_id),
            )
            connection.execute(
                "UPDATE uploads SET stage = ?, slot_id = NULL, changed_at = ? WHERE id = ?",
                (Stage.CLAIMED.value, now, upload_id),
            )

        await self._journal.write(work)

    async def failed(self, upload_id: int) -> None:
        """The image was refused for good. Its slot, if any, stays: the next run may use it."""
        now = self._clock.wall()
        await self._journal.write(lambda connection: _to_stage(connection, upload_id, Stage.FAILED, now))

    def row_ended(self, position: int, outcome: Outcome, upload_id: int | None) -> None:
        """A manifest row has its outcome. Not awaited: what it says of the image is recorded already."""
        # The standard library's JSON, because it can hold half a surrogate pair: cells are carried untouched.
        extra = json.dumps(dict(outcome.extra)) if outcome.extra else None
        values = (
            self.run_id,
            position,
            outcome.line,
            storable(outcome.tile_id),
            storable(outcome.source),
            outcome.status.value,
            upload_id,
            outcome.size,
            outcome.attempts,
            outcome.seconds,
            storable(outcome.error),
            storable(outcome.reason),
            extra,
        )
        self._journal.post(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO rows (run_id, position, line, tile_id, source, status, upload_id, size, "
                "attempts, seconds, error, reason, extra) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        )

    async def flush(self) -> None:
        """Everything said so far is on disk when this returns."""
        await self._journal.write(lambda _: None)


@contextlib.asynccontextmanager
async def open_ledger(path: Path, *, host: str, store_id: int, clock: Clock) -> AsyncIterator[Ledger]:
    """The ledger of one store on one API host, held by nobody else.

    Raises `LedgerError` when the file belongs to another host or store, `LedgerBusyError` when it is held.
    """
    async with open_journal(path) as journal:
        found = await journal.write(lambda connection: _origin(connection, host, store_id))
        if found != (host, store_id):
            raise LedgerError(
                f"the ledger {path} belongs to store {found[1]} on {found[0]}, not to store {store_id} on {host}; "
                "give another --ledger."
            )
        yield Ledger(journal, clock)


def _origin(connection: sqlite3.Connection, host: str, store_id: int) -> tuple[str, int]:
    found: tuple[str, int] | None = connection.execute("SELECT host, store_id FROM origin").fetchone()
    if found is None:
        connection.execute("INSERT INTO origin (host, store_id) VALUES (?, ?)", (host, store_id))
        return host, store_id
    return found


def _remember_file(connection: sqlite3.Connection, image: SourceImage, now: float) -> None:
    if image.mtime_ns > now * 1e9 - RACY_NS:
        return
    connection.execute(
        "INSERT INTO files (path, size, mtime_ns, digest, kind) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, "
        "digest = excluded.digest, kind = excluded.kind WHERE (size, mtime_ns, digest) IS NOT "
        "(excluded.size, excluded.mtime_ns, excluded.digest)",
        (os.fsencode(image.path), image.size, image.mtime_ns, image.digest, image.kind.value),
    )


def _claim(connection: sqlite3.Connection, tile: str | bytes, digest: str, run_id: int, now: float) -> Claim:
    upload_id, stage, stored, seen_run, seen_line, image_id, url, touched_at = connection.execute(
        "SELECT uploads.id, stage, stored, seen_run, seen_line, image_id, url, "
        "coalesce(sent_at, reserved_at) FROM uploads LEFT JOIN slots ON slots.id = slot_id "
        "WHERE tile_id = ? AND digest = ?",
        (tile, digest),
    ).fetchone()
    return Claim(
        upload_id=upload_id,
        stage=Stage(stage),
        image_id="" if image_id is None else readable(image_id),
        slot=None if url is None else Slot(readable(image_id), readable(url)),
        # A clock that was set back must not make a negative age.
        age=0.0 if touched_at is None else max(0.0, now - touched_at),
        stored=None if stored is None else msgspec.json.decode(stored, type=StoredImage),
        first_line=seen_line if seen_run == run_id else None,
    )


def _to_stage(connection: sqlite3.Connection, upload_id: int, stage: Stage, now: float) -> None:
    connection.execute("UPDATE uploads SET stage = ?, changed_at = ? WHERE id = ?", (stage.value, now, upload_id))
