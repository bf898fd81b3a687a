"""How much of the API's budget is used, and what for: tileferry beside the script that people would write.

    python -m benchmarks.budget                      (everything, three minutes each)
    python -m benchmarks.budget --scenario alone     (or slow, shared, stores, processes)

Every emulator is a process of its own that counts 600 calls in any sliding minute, answers after 50 to 300 ms and
takes 0.3 to 2 s to process a picture; every client is a process of its own, stopped in order when the time is
over. The figures come from the emulators' call logs; pictures of calls per second go to `benchmarks/output/`.

alone    tileferry, and beside it on an emulator of its own `benchmarks.plain_script`
slow     likewise, but one picture in twenty takes up to a minute to process
shared   another program uses half of the token's budget, politely
stores   ten stores in one run, each with a token of its own; processes: likewise, in ten processes

The exit code is 1 when something that is expected was missed. All traffic is on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.programs import (
    SETTINGS,
    Client,
    Site,
    another_program,
    calls_of,
    emulated,
    looked_up,
    plain_script,
    prepare,
    run_for,
    tileferry,
    tileferry_of_all,
    tileferry_of_one,
)
from benchmarks.traffic import IMAGES_A_MINUTE, RATE, THROTTLED, Figures, by_store, draw, measure, panel, span_of
from tileferry.emulator import CallKind, EmulatorSettings

OUTPUT = Path(__file__).parent / "output"

SLOW = replace(SETTINGS, slow_share=0.05, slow_processing=(2.0, 60.0))
STORES = range(2001, 2011)

WARMING = 30.0
"""Seconds after the first call that are not measured: programs start and learn."""
SHARED_WARMING = 60.0
"""Likewise where the first minute shows that others use the token too."""
SETTLING = 15.0
"""Seconds before the stop from which a reserved image may still be on its way."""
SLOW_SETTLING = 90.0
"""Likewise, where processing takes up to a minute."""

Check = tuple[str, bool]


async def alone(seconds: float, folder: Path, settings: EmulatorSettings = SETTINGS) -> list[Check]:
    """tileferry and the plain script, each with an emulator of its own."""
    slow = settings.slow_share > 0
    name = "slow" if slow else "alone"
    manifest = prepare(folder / "pictures", seconds)
    async with emulated(settings, folder) as first, emulated(settings, folder) as second:
        clients = [tileferry(first, manifest, folder), plain_script(second, manifest, folder)]
        stopped = await run_for(seconds, *clients)
        measured, panels, truths = [], [], []
        for site, client in zip((first, second), clients, strict=True):
            calls = await calls_of(site)
            settling = SLOW_SETTLING if slow else SETTLING
            span = span_of(calls, stop=stopped - site.since, settling=settling, warming=WARMING)
            measured.append(measure(calls, client.confirmed(), span))
            truths.append(json.loads(await looked_up(site, "truth")))
            panels.append(panel(f"{client.name}, {name}", calls))
    draw(panels, OUTPUT / f"budget-{name}.png")
    ours, theirs = truths
    show([client.name for client in clients], measured, truths)
    figures = measured[0]
    most = 2.1 if slow else 2.02
    checks = [
        ("at least 98 % of the budget used", figures.used >= 0.98),
        ("no 429", ours["throttled"] == 0),
        (f"at most {most} calls an image", 0 < figures.calls_an_image <= most),
        ("every image confirmed that had the time", figures.unconfirmed == 0),
        (f"never more than {RATE} calls in 60 s", ours["max_calls_in_window"] <= RATE),
    ]
    return checks if slow else [*checks, ("the plain script blocked", theirs["hammered"] > 0)]


async def slow(seconds: float, folder: Path) -> list[Check]:
    """Likewise with pictures that take long to process."""
    return await alone(seconds, folder, SLOW)


async def shared(seconds: float, folder: Path) -> list[Check]:
    """tileferry, while another program uses half of the token's budget."""
    manifest = prepare(folder / "pictures", seconds)
    async with emulated(SETTINGS, folder) as site:
        client = tileferry(site, manifest, folder)
        other = asyncio.create_task(another_program(site, RATE // 2))
        try:
            stopped = await run_for(seconds, client)
        finally:
            other.cancel()
            await asyncio.wait([other])
        calls = await calls_of(site)
        truth = json.loads(await looked_up(site, "truth"))
    own = [call for call in calls if call.kind is not CallKind.PAGES]
    others = [call for call in calls if call.kind is CallKind.PAGES]
    span = span_of(own, stop=stopped - site.since, settling=SETTLING, warming=SHARED_WARMING)
    taken = sum(span.holds(call.at) and call.status != THROTTLED for call in others)
    figures = measure(own, client.confirmed(), span, taken=taken)
    draw(
        [panel("tileferry and another program on the same token", own, others=others)],
        OUTPUT / "budget-shared.png",
    )
    show(["tileferry"], [figures], [truth])
    print(
        f"The other program made {taken / span.minutes:.0f} calls a minute and met "
        f"{sum(call.status == THROTTLED for call in others)} times a 429."
    )
    return [
        ("at least 90 % used of what the other leaves", figures.used >= 0.9),
        ("no block", truth["hammered"] == 0),
    ]


async def stores(seconds: float, folder: Path) -> list[Check]:
    """Ten stores in one run, a token each."""
    manifest = prepare(folder / "pictures", seconds, STORES)
    async with emulated(replace(SETTINGS, store_ids=frozenset(STORES)), folder) as site:
        client = tileferry_of_all(site, manifest, folder)
        return await compare_stores(site, [client], seconds, "stores")


async def processes(seconds: float, folder: Path) -> list[Check]:
    """Ten stores in as many processes, a token each."""
    manifests = [prepare(folder / str(store), seconds, [store]) for store in STORES]
    async with emulated(replace(SETTINGS, store_ids=frozenset(STORES)), folder) as site:
        clients = [
            tileferry_of_one(site, manifest, folder, store)
            for manifest, store in zip(manifests, STORES, strict=True)
        ]
        return await compare_stores(site, clients, seconds, "processes")


async def compare_stores(site: Site, clients: Sequence[Client], seconds: float, name: str) -> list[Check]:
    """Run the clients of ten stores and compare the stores' rates."""
    stopped = await run_for(seconds, *clients)
    calls = by_store(await calls_of(site))
    truth = json.loads(await looked_up(site, "truth"))
    confirmed = {tile: image for client in clients for tile, image in client.confirmed().items()}
    measured = []
    for store in STORES:
        span = span_of(calls[store], stop=stopped - site.since, settling=SETTLING, warming=WARMING)
        own = {tile: image for tile, image in confirmed.items() if tile.startswith(f"{store}-")}
        measured.append(measure(calls[store], own, span))
    windows = [{"max_calls_in_window": truth["windows"].get(calls[store][0].token, 0)} for store in STORES]
    show([str(store) for store in STORES], measured, windows)
    rates = [figures.passed_a_minute for figures in measured]
    spread = max(rates) / min(rates) - 1
    print(f"The fastest store is {spread:.2%} ahead of the slowest.")
    draw([panel(f"store {store}", calls[store]) for store in STORES], OUTPUT / f"budget-{name}.png")
    return [
        ("all stores within 5 % of each other's rate", spread <= 0.05),
        ("at least 98 % of each store's budget used", min(figures.used for figures in measured) >= 0.98),
        (f"each within its own {RATE} in 60 s", truth["max_calls_in_window"] <= RATE),
        ("no 429", truth["throttled"] == 0),
    ]


def show(names: Sequence[str], measured: Sequence[Figures], truths: Sequence[Mapping[str, int]]) -> None:
    """The table, one column for each client."""
    rows: list[tuple[str, list[str]]] = [
        ("budget used", [f"{each.used:.2%}" for each in measured]),
        ("API calls a minute let through", [f"{each.passed_a_minute:.1f}" for each in measured]),
        ("most API calls in any 60 s", [str(truth["max_calls_in_window"]) for truth in truths]),
        ("429s", [str(each.throttled) for each in measured]),
        ("long blocks for hammering", [str(truth.get("hammered", "-")) for truth in truths]),
        ("API calls an image", [f"{each.calls_an_image:.3f}" for each in measured]),
        ("images a minute", [f"{each.images_a_minute:.1f}" for each in measured]),
        ("of 300 in theory", [f"{each.images_a_minute / IMAGES_A_MINUTE:.1%}" for each in measured]),
        ("API calls in all", [str(each.calls) for each in measured]),
        ("images confirmed in all", [str(each.confirmed) for each in measured]),
        ("begun early enough, yet unconfirmed", [str(each.unconfirmed) for each in measured]),
    ]
    width = max(len(label) for label, _ in rows)
    cells = [len(cell) for _, row in rows for cell in row]
    wide = max(*cells, *map(len, names)) + 2
    print(" " * width + "".join(f"{name:>{wide}}" for name in names))
    for label, row in rows:
        print(f"{label:<{width}}" + "".join(f"{cell:>{wide}}" for cell in row))


SCENARIOS: Mapping[str, Callable[[float, Path], Awaitable[list[Check]]]] = {
    "alone": alone,
    "slow": slow,
    "shared": shared,
    "stores": stores,
    "processes": processes,
}


async def compare(names: Sequence[str], seconds: float) -> bool:
    """The scenarios one after the other; returns whether all that is expected was met."""
    met = True
    for name in names:
        print(f"\n== {name}: {seconds:.0f} s")
        with tempfile.TemporaryDirectory(prefix="tileferry-budget-") as place:
            async with asyncio.timeout(seconds + 120):
                checks = await SCENARIOS[name](seconds, Path(place))
        for expected, held in checks:
            print(f"  {'met   ' if held else 'MISSED'}  {expected}")
            met = met and held
    return met


def main() -> int:
    """Read the options, measure, and tell by the exit code whether all that is expected was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="for each scenario")
    parser.add_argument("--scenario", choices=["all", *SCENARIOS], default="all")
    asked = parser.parse_args()
    names = list(SCENARIOS) if asked.scenario == "all" else [asked.scenario]
    return 0 if asyncio.run(compare(names, asked.seconds)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
