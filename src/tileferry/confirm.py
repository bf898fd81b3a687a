"""Collecting what is outstanding: asks for the results of images that earlier runs left on their way.

Nothing is uploaded and no manifest is needed: the ledger names every image that could exist. A run of its own this
is not, so that the rows of the latest upload stay the latest results, now with their addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tileferry import history
from tileferry.api import open_api
from tileferry.auth import Credentials
from tileferry.clock import Clock
from tileferry.delay import ResultDelay
from tileferry.errors import RejectedError
from tileferry.events import ConfirmEnded, Listener, ResultCollected, RetryPlanned, broadcast
from tileferry.ledger import Unfinished, open_ledger
from tileferry.model import Stage
from tileferry.retry import Trouble, persist
from tileferry.run import probe
from tileferry.settings import Settings, Timing
from tileferry.transfer import ASK_GROWTH, LONGEST_ASK_WAIT, Means

FIRST_WAIT = 2.0
"""Seconds from asking about all images to asking once more about those that were not there."""


async def confirm(
    settings: Settings, credentials: Credentials, *, listeners: Sequence[Listener] = (), clock: Clock | None = None
) -> ConfirmEnded:
    """Record the images that are there by now.

    Each is asked about at once. Those that were sent and are not there are asked about again, ever more rarely,
    for `Timing.patience`; those that may never have been sent only while `Timing.settle` gives them time to turn
    up. With nothing outstanding no call is made. Raises `LedgerError` when there is no ledger, and what `open_run`
    raises.
    """
    clock = clock or Clock()
    tell = broadcast(*listeners)
    started = clock.now()
    await asyncio.to_thread(_check_exists, settings)
    async with open_ledger(
        settings.ledger_path, host=settings.host, store_id=settings.store_id, clock=clock
    ) as ledger:
        outstanding = waiting = await ledger.unfinished()
        if outstanding:
            async with open_api(
                settings, credentials, clock=clock, tell=tell, past=await ledger.leases(), lease=ledger.lease
            ) as api:
                means = Means(
                    settings=settings,
                    api=api,
                    ledger=ledger,
                    clock=clock,
                    delay=ResultDelay(settings.timing.first_result),
                    tell=tell,
                )
                await probe(means)
                waiting = await _collect(means, outstanding)
    ended = ConfirmEnded(
        store_id=settings.store_id,
        ledger=settings.ledger_path,
        seconds=clock.now() - started,
        confirmed=len(outstanding) - len(waiting),
        sent=sum(image.stage is Stage.SENT for image in waiting),
        reserved=sum(image.stage is Stage.RESERVED for image in waiting),
    )
    tell(ended)
    return ended


def _check_exists(settings: Settings) -> None:
    """Blocking. A mistyped store must not leave a new, empty ledger behind that says all is well."""
    history.open_history(settings.ledger_path).close()


async def _collect(means: Means, outstanding: Sequence[Unfinished]) -> list[Unfinished]:
    """Ask until all are there or hope is gone; returns those that are not there."""
    timing = means.settings.timing
    hopeful = await _ask_each(means, outstanding)
    hopeless: list[Unfinished] = []
    begun = means.clock.moving()
    wait = FIRST_WAIT
    while True:
        spent = means.clock.moving() - begun
        hopeless += [image for image in hopeful if _hope(image, timing) <= spent]
        hopeful = [image for image in hopeful if _hope(image, timing) > spent]
        if not hopeful:
            return hopeless
        longest = max(_hope(image, timing) for image in hopeful)
        await asyncio.sleep(min(wait, longest - spent))
        wait = min(wait * ASK_GROWTH, LONGEST_ASK_WAIT)
        hopeful = await _ask_each(means, hopeful)


def _hope(image: Unfinished, timing: Timing) -> float:
    """For how many seconds after the first question an image that is not there may still turn up."""
    if image.stage is Stage.SENT:
        return timing.patience
    return min(timing.patience, timing.settle - image.age)


async def _ask_each(means: Means, outstanding: Sequence[Unfinished]) -> list[Unfinished]:
    """Ask once about each image, a few at a time; returns those that are not there."""
    left = iter(outstanding)
    missing: list[Unfinished] = []

    async def work() -> None:
        missing.extend([image for image in left if not await _collected(means, image)])

    workers = [asyncio.create_task(work()) for _ in range(min(means.settings.pace.concurrency, len(outstanding)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    return missing


async def _collected(means: Means, image: Unfinished) -> bool:
    """Ask about one image; if it is there, record that."""
    timing = means.settings.timing
    try:
        stored = await persist(
            lambda: means.api.result(image.image_id),
            trouble=Trouble(timing, means.clock),
            timing=timing,
            on_retry=lambda error, wait: means.tell(
                RetryPlanned(line=0, step="confirm", problem=str(error), wait=wait)
            ),
        )
    except RejectedError:
        # What one image is refused or takes too long for is no reason to leave the others; it waits on.
        return False
    if stored is None:
        return False
    await means.ledger.confirmed(image.upload_id, stored)
    means.tell(ResultCollected(tile_id=image.tile_id, image_id=image.image_id))
    return True
