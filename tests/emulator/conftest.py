"""Emulators for the tests, each with a client of its own."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from emulator.customer import Customer, FakeClock
from tileferry.emulator import Emulator, EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No emulator leaves an error in the log: neither a handler's nor the event loop's."""
    yield
    records = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def clock() -> FakeClock:
    """The emulators' time in this test."""
    return FakeClock()


@pytest.fixture
async def enter(clock: FakeClock) -> AsyncIterator[Callable[..., Awaitable[Customer]]]:
    """Starts an emulator with the given settings and enters it as a customer."""
    async with AsyncExitStack() as stack:

        async def enter(**settings: Any) -> Customer:  # noqa: ANN401 - passed on
            emulator = await stack.enter_async_context(Emulator(EmulatorSettings(**settings), clock=clock))
            session = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
            )
            return Customer(emulator, session)

        yield enter


@pytest.fixture
async def customer(enter: Callable[..., Awaitable[Customer]]) -> Customer:
    """A customer of an emulator with everything at its default, but no processing time."""
    return await enter(processing=(0, 0))
