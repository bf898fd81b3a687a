"""One image on its way from claimed to confirmed, marking each step.

Each step marks the ledger before or after it acts, so that after any failure, of a call or of the whole process,
it is known which image could exist. The rules that keep every image from being stored twice:

* A body is sent only to a slot that is in the ledger.
* After an unclear end of an upload the API is asked for the image before anything is sent again. If the whole
  body may have arrived, the image gets `Timing.settle` seconds to show, for processing takes its time.
* What is sent again goes to the same slot. A new slot is reserved only when the old one is refused and no image
  turned up behind it.

An image that waits for its result holds neither a worker nor its content.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tileferry import images
from tileferry.api import Api
from tileferry.bandwidth import Bandwidth, Unlimited
from tileferry.clock import Clock
from tileferry.delay import ResultDelay
from tileferry.errors import Delivery, PatienceError, RejectedError, SlotRefusedError, TransientError
from tileferry.events import BodySent, Listener, RetryPlanned
from tileferry.ledger import Claim, Ledger
from tileferry.model import Row, Slot, SourceImage, Stage, StoredImage
from tileferry.multipart import Body
from tileferry.retry import Trouble, persist
from tileferry.settings import Settings

SLOTS_PER_IMAGE = 3
"""How many slots may be refused for one image in one run; more would be a quarrel, not bad luck."""

ASK_GROWTH = 2.5
"""By how much each wait between two questions for the same result exceeds the last."""

LONGEST_ASK_WAIT = 30.0
"""Seconds between two questions for the same result, at the most."""

SLOT_GONE = 410
"""The status by which an upload host says that a slot is no more."""

SLOT_USED = 409
"""The status by which an upload host says that a slot holds something already: never reason for a new slot."""


class Seat:
    """A worker's place, which an image gives up while it only waits."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._taken = True

    async def take(self) -> None:
        """Sit down again, waiting for a free place if need be."""
        if not self._taken:
            await self._places.acquire()
            self._taken = True

    def leave(self) -> None:
        """Let another image have the place."""
        if self._taken:
            self._taken = False
            self._places.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all transfers of a run share."""

    settings: Settings
    api: Api
    ledger: Ledger
    clock: Clock
    delay: ResultDelay
    tell: Listener
    bandwidth: Bandwidth | Unlimited = field(default_factory=Unlimited)


class Transfer:
    """One image of one row. `attempts` counts the calls made for it, `image_id` is its latest slot's."""

    def __init__(
        self, means: Means, row: Row, image: SourceImage, content: bytes | None, claim: Claim, seat: Seat
    ) -> None:
        self.attempts = 0
        self._settings = means.settings
        self._timing = means.settings.timing
        self._api = means.api
        self._ledger = means.ledger
        self._clock = means.clock
        self._delay = means.delay
        self._bandwidth = means.bandwidth
        self._tell = means.tell
        self._row = row
        self._image = image
        self._content = content
        self._upload_id = claim.upload_id
        self._seat = seat
        self._trouble = Trouble(self._timing, self._clock)
        self._stage = Stage.CLAIMED
        self._slot = claim.slot
        self._doubt = Delivery.NOTHING
        self._refusal: SlotRefusedError | None = None
        self._slots_refused = 0
        self._never_asked = False
        # When a body was last sent that arrived, or may have; and when one was first accepted, in patience's time.
        self._sent_at = 0.0
        self._accepted_at: float | None = None
        if claim.slot is not None:
            self._take_up(claim)

    @property
    def image_id(self) -> str:
        """The id under which the image exists or may come to exist; empty while no slot is reserved."""
        return self._slot.image_id if self._slot is not None else ""

    async def run(self) -> StoredImage | None:
        """Bring the image to its end: confirmed, or with `Settings.confirm` off (then `None`) sent.

        Raises `PatienceError` when it stays on its way, `RejectedError` when it is refused, and what is fatal.
        """
        try:
            return await persist(self._go_on, trouble=self._trouble, timing=self._timing, on_retry=self._say_retry)
        except PatienceError:
            raise
        except RejectedError:
            await self._ledger.failed(self._upload_id)
            raise

    def _take_up(self, claim: Claim) -> None:
        """Go on where an earlier run was cut off; it may have sent a body without living to hear the answer."""
        self._sent_at = self._clock.now() - claim.age
        if claim.stage is Stage.SENT and claim.age < self._timing.resend:
            self._stage = Stage.SENT
            self._accepted_at = self._clock.moving() - claim.age
        else:
            self._stage = Stage.RESERVED
            self._doubt = Delivery.WHOLE
            if claim.stage is not Stage.SENT and 0 < self._timing.slot_lifetime < claim.age:
                # As good as refused: it is asked about like any other, but no body is sent there in vain. Not
                # where one was accepted: only the host itself can say that such an image is not merely slow.
                self._refusal = SlotRefusedError("the slot is older than a slot lives", status=SLOT_GONE)

    async def _go_on(self) -> StoredImage | None:
        """From wherever the image stands, as far as it goes; called again after each passing failure."""
        while True:
            stored = None
            if self._slot is None:
                await self._reserve()
            elif self._stage is Stage.SENT:
                if not self._settings.confirm:
                    return None
                stored = await self._await_result(self._slot)
            elif self._doubt is not Delivery.NOTHING:
                stored = await self._settle(self._slot)
            else:
                await self._post(self._slot)
            if stored is not None:
                await self._ledger.confirmed(self._upload_id, stored)
                return stored

    async def _reserve(self) -> None:
        await self._seat.take()
        self.attempts += 1
        slot = await self._api.reserve(self._row.tile_id)
        await self._ledger.reserved(self._upload_id, slot)
        self._slot = slot
        self._stage = Stage.RESERVED
        self._doubt = Delivery.NOTHING
        self._accepted_at = None
        self._trouble.passed()

    async def _post(self, slot: Slot) -> None:
        await self._seat.take()
        body = await self._body()
        self.attempts += 1
        try:
            await self._api.upload(slot, body)
        except TransientError as exc:
            if exc.delivery is not Delivery.NOTHING:
                self._sent_at = self._clock.now()
                self._doubt = exc.delivery
            raise
        except SlotRefusedError as exc:
            # An earlier body may be what is in the way; and hosts have been known to refuse what they then keep.
            self._sent_at = self._clock.now()
            self._refusal = exc
            self._doubt = Delivery.WHOLE
            return
        self._sent_at = self._clock.now()
        if self._accepted_at is None:
            self._accepted_at = self._clock.moving()
            self._never_asked = True
        self._ledger.sent(self._upload_id)
        self._stage = Stage.SENT
        self._trouble.passed()
        self._tell(BodySent(line=self._row.line, size=self._image.size))

    async def _settle(self, slot: Slot) -> StoredImage | None:
        """Ask for an image that may exist, for as long as it may still turn up."""
        self._step_aside()
        used = self._refusal is not None and self._refusal.status == SLOT_USED
        window = self._timing.patience if used else self._timing.settle
        if self._doubt is Delivery.PART:
            window = 0.0
        stored = await self._ask_until(slot, self._sent_at + window)
        if stored is not None:
            return stored
        if used:
            raise PatienceError(
                f"{self._refusal}, but no image showed behind it within {window:.0f} seconds; it was not sent "
                "again, for it may be there. The next run asks again; --force uploads it anew.",
                reason="slot used, image not shown",
            )
        self._doubt = Delivery.NOTHING
        if self._refusal is not None:
            await self._lose_slot(self._refusal)
        return None

    async def _await_result(self, slot: Slot) -> StoredImage | None:
        """Ask for the image that was accepted; `None` when it is to be sent to the same slot once more."""
        self._step_aside()
        waited = 0.0 if self._accepted_at is None else self._clock.moving() - self._accepted_at
        if waited >= self._timing.patience:
            raise PatienceError(
                f"sent and accepted, but no result showed within {self._timing.patience:.0f} seconds. Run the "
                "same command again: it asks first.",
                reason="sent, result not shown",
            )
        window = min(self._timing.resend, self._timing.patience - waited)
        stored = await self._ask_until(slot, self._sent_at + window)
        if stored is None and window == self._timing.resend:
            # Whoever accepted it has lost it, or was not the upload host at all (a hotel's login page, say).
            self._stage = Stage.RESERVED
        return stored

    async def _ask_until(self, slot: Slot, deadline: float) -> StoredImage | None:
        """Ask for the image, at first when it is likely to be there, then ever more rarely, until `deadline`."""
        wait = self._delay.seconds
        due = min(self._sent_at + wait, deadline)
        while True:
            await asyncio.sleep(max(0.0, due - self._clock.now()))
            stored = await self._ask(slot)
            now = self._clock.now()
            if stored is not None or now >= deadline:
                return stored
            wait = min(wait * ASK_GROWTH, LONGEST_ASK_WAIT)
            due = min(now + wait, deadline)

    async def _ask(self, slot: Slot) -> StoredImage | None:
        self.attempts += 1
        asked_after = self._clock.now() - self._sent_at
        stored = await self._api.result(slot.image_id)
        self._trouble.answered()
        if self._never_asked:
            self._never_asked = False
            if stored is not None:
                self._delay.hit()
            else:
                self._delay.missed(asked_after)
        return stored

    async def _body(self) -> Body:
        """The body of one attempt; its content is read anew unless it is still at hand."""
        image = self._image
        if self._content is None and image.size <= images.CHUNK_BYTES:
            examined = await asyncio.to_thread(images.examine, image.path)
            if examined.image.digest != image.digest:
                raise images.changed(image.path)
            self._content = examined.content
        return Body(
            field_name=self._settings.field_name,
            filename=image.path.name,
            kind=image.kind,
            size=image.size,
            content=self._content if self._content is not None else images.read_chunks(image),
            bandwidth=self._bandwidth,
        )

    async def _lose_slot(self, refusal: SlotRefusedError) -> None:
        self._slots_refused += 1
        await self._ledger.slot_lost(self._upload_id)
        self._slot = self._refusal = None
        self._stage = Stage.CLAIMED
        if self._slots_refused >= SLOTS_PER_IMAGE:
            raise refusal

    def _step_aside(self) -> None:
        self._content = None
        self._seat.leave()

    def _say_retry(self, error: TransientError, wait: float) -> None:
        self._tell(RetryPlanned(line=self._row.line, step=self._stage.value, problem=str(error), wait=wait))
