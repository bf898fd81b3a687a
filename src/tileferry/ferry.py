"""One manifest row to its outcome: examine the picture, claim it in the ledger, transfer what is not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tileferry import images
from tileferry.errors import RejectedError
from tileferry.events import RowBegan
from tileferry.ledger import Claim
from tileferry.model import BadRow, Outcome, Row, SourceImage, Stage, Status, StoredImage, image_url
from tileferry.transfer import Means, Seat, Transfer


@dataclass(slots=True)
class _Crossing:
    """What is known of one row while it is under way."""

    started: float
    upload_id: int | None = None
    image: SourceImage | None = None
    transfer: Transfer | None = None
    image_id: str = ""
    stored: StoredImage | None = None


class Ferry:
    """Carries the rows of one run. `buckets` holds the address of each image bucket."""

    def __init__(self, means: Means, buckets: Mapping[str, str]) -> None:
        self._means = means
        self._buckets = buckets
        self._crossings: dict[int, _Crossing] = {}
        self._under_way: dict[int, asyncio.Event] = {}

    async def carry(self, position: int, row: Row | BadRow, seat: Seat) -> Outcome:
        """Bring one row to its outcome and record that.

        Raises only what is fatal to the run; if cancelled, the row is to be given to `leave_pending`.
        """
        crossing = self._crossings[position] = _Crossing(self._means.clock.now())
        try:
            status = await self._cross(row, crossing, seat)
        except RejectedError as exc:
            outcome = self._outcome(row, crossing, Status.FAILED, str(exc), exc.reason)
        else:
            outcome = self._outcome(row, crossing, status)
        finally:
            seat.leave()
        self._record(position, outcome)
        return outcome

    def leave_pending(self, position: int, row: Row | BadRow, why: str) -> Outcome:
        """Record that a row was not begun or not finished."""
        crossing = self._crossings.get(position) or _Crossing(self._means.clock.now())
        outcome = self._outcome(row, crossing, Status.PENDING, why, "not finished")
        self._record(position, outcome)
        return outcome

    async def _cross(self, row: Row | BadRow, crossing: _Crossing, seat: Seat) -> Status:
        if isinstance(row, BadRow):
            raise RejectedError(row.problem, reason="bad manifest row")
        self._means.tell(RowBegan(line=row.line, tile_id=row.tile_id, source=row.source))
        image, content = await self._examine(row)
        crossing.image = image
        claim = await self._means.ledger.claim(row.line, row.tile_id, image, force=self._means.settings.force)
        crossing.upload_id = claim.upload_id
        if claim.first_line is not None:
            seat.leave()
            return await self._share(row, claim, image, crossing)
        if claim.stage is Stage.CONFIRMED:
            crossing.image_id, crossing.stored = claim.image_id, claim.stored
            return Status.UNCHANGED
        if claim.stage is Stage.SENT and not self._means.settings.confirm:
            crossing.image_id = claim.image_id
            return Status.UNCHANGED
        arrived = self._under_way[claim.upload_id] = asyncio.Event()
        crossing.transfer = Transfer(self._means, row, image, content, claim, seat)
        try:
            crossing.stored = await crossing.transfer.run()
        finally:
            del self._under_way[claim.upload_id]
            arrived.set()
        crossing.image_id = crossing.transfer.image_id
        return Status.UPLOADED

    async def _examine(self, row: Row) -> tuple[SourceImage, bytes | None]:
        mark = await asyncio.to_thread(images.fingerprint, row.path)
        known = await self._means.ledger.known(row.path, mark.size, mark.mtime_ns)
        if known is not None:
            return known, None
        examined = await asyncio.to_thread(images.examine, row.path)
        return examined.image, examined.content

    async def _share(self, row: Row, claim: Claim, image: SourceImage, crossing: _Crossing) -> Status:
        """Wait for the row that asked for the same image first, and share what became of it."""
        arrived = self._under_way.get(claim.upload_id)
        if arrived is not None:
            await arrived.wait()
            claim = await self._means.ledger.claim(row.line, row.tile_id, image)
        sent_is_enough = claim.stage is Stage.SENT and not self._means.settings.confirm
        if claim.stage is not Stage.CONFIRMED and not sent_is_enough:
            raise RejectedError(
                f"the same picture for the same tile as line {claim.first_line}, which did not get through; see "
                "there",
                reason="duplicate of a failed row",
            )
        crossing.image_id, crossing.stored = claim.image_id, claim.stored
        return Status.DUPLICATE

    def _outcome(
        self, row: Row | BadRow, crossing: _Crossing, status: Status, error: str = "", reason: str = ""
    ) -> Outcome:
        stored, image = crossing.stored, crossing.image
        original = stored.original if stored is not None else None
        return Outcome(
            line=row.line,
            tile_id=row.tile_id,
            source=row.source,
            status=status,
            image_id=crossing.image_id,
            url=image_url(self._buckets, stored) if stored is not None else "",
            width=original.width if original is not None else None,
            height=original.height if original is not None else None,
            size=image.size if image is not None else None,
            digest=image.digest if image is not None else "",
            attempts=crossing.transfer.attempts if crossing.transfer is not None else 0,
            seconds=round(self._means.clock.now() - crossing.started, 3),
            error=error,
            reason=reason,
            extra=row.extra,
        )

    def _record(self, position: int, outcome: Outcome) -> None:
        crossing = self._crossings.pop(position, None)
        self._means.ledger.row_ended(position, outcome, crossing.upload_id if crossing else None)
