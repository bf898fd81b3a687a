"""What the ledger holds, for whoever asks later: read only, and no burden on a run that is going on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tileferry.errors import LedgerError, printable
from tileferry.journal import connect_for_reading, explained
from tileferry.model import Outcome, Stage, Status, StoredImage, image_url
from tileferry.schema import readable


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One run in short. Times are Unix seconds; `ended_at` is missing while it goes on, or when it was killed."""

    run_id: int
    started_at: float
    ended_at: float | None
    process_id: int
    manifest: str
    extra_columns: tuple[str, ...]
    statuses: dict[Status, int]


class History:
    """A ledger opened for reading. Open it with `open_history` and close it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def origin(self) -> tuple[str, int]:
        """The API host and the store that the ledger belongs to."""
        for host, store_id in self._select("SELECT host, store_id FROM origin"):
            return host, store_id
        raise LedgerError(
            f"the ledger {printable(str(self.path))} holds nothing yet: its first run did not begin."
        )

    def stages(self) -> dict[Stage, int]:
        """How many images have come how far, over all runs."""
        found = self._select("SELECT stage, count(*) FROM uploads GROUP BY stage")
        return {Stage(stage): number for stage, number in found}

    def runs(self, limit: int = 10) -> list[PastRun]:
        """The latest runs, the newest first."""
        found = self._select(
            "SELECT id, started_at, ended_at, process_id, manifest, extra_columns FROM runs "
            "ORDER BY id DESC LIMIT ?",
            limit,
        )
        return [
            PastRun(
                run_id=run_id,
                started_at=started_at,
                ended_at=ended_at,
                process_id=process_id,
                manifest=readable(manifest),
                extra_columns=tuple(json.loads(columns)),
                statuses=self._statuses(run_id),
            )
            for run_id, started_at, ended_at, process_id, manifest, columns in found
        ]

    def outcomes(self, run_id: int) -> Iterator[Outcome]:
        """The outcomes of one run's rows, in manifest order."""
        buckets = self._select("SELECT name, url FROM buckets")
        addresses = {readable(name): readable(url) for name, url in buckets}
        found = self._select(
            "SELECT line, rows.tile_id, source, status, image_id, stored, rows.size, digest, attempts, seconds, "
            "error, reason, extra FROM rows LEFT JOIN uploads ON uploads.id = rows.upload_id "
            "LEFT JOIN slots ON slots.id = slot_id WHERE run_id = ? ORDER BY position",
            run_id,
        )
        for line, tile, source, status, image_id, stored, size, digest, attempts, seconds, *rest in found:
            error, reason, extra = rest
            image = None if stored is None else msgspec.json.decode(stored, type=StoredImage)
            arrived = Status(status) in {Status.UPLOADED, Status.UNCHANGED, Status.DUPLICATE}
            original = image.original if image is not None and arrived else None
            yield Outcome(
                line=line,
                tile_id=readable(tile),
                source=readable(source),
                status=Status(status),
                image_id=readable(image_id) if image_id is not None and arrived else "",
                url=image_url(addresses, image) if image is not None and arrived else "",
                width=original.width if original is not None else None,
                height=original.height if original is not None else None,
                size=size,
                digest=digest or "",
                attempts=attempts,
                seconds=seconds,
                error=readable(error),
                reason=readable(reason),
                extra=json.loads(extra) if extra else {},
            )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _statuses(self, run_id: int) -> dict[Status, int]:
        found = self._select("SELECT status, count(*) FROM rows WHERE run_id = ? GROUP BY status", run_id)
        return {Status(status): number for status, number in found}

    def _select(self, statement: str, *values: object) -> Iterator[Any]:
        """The rows found, one by one; their types are what the schema says."""
        with explained(self.path):
            cursor = self._connection.execute(statement, values)
            while (found := cursor.fetchone()) is not None:
                yield found


def open_history(path: Path) -> History:
    """The ledger at `path`, for reading. Raises `LedgerError` when there is none or it cannot be read."""
    return History(path, connect_for_reading(path))
