"""What is remembered: the truth, the calls, the pages for people, and a folder over restarts."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from emulator.customer import GIF, Customer, FakeClock, serving
from tileferry.emulator import Emulator, EmulatorSettings, Fault, FaultKind, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Enter = Callable[..., Awaitable[Customer]]


async def test_the_truth_names_duplicates(customer: Customer) -> None:
    """The same picture twice on one tile is a duplicate, on two tiles it is none."""
    first, second = [await customer.store(tile="one") for _ in range(2)]
    await customer.store(tile="two")
    truth = customer.emulator.truth()
    assert len(truth.images) == 3
    assert [(each.tile, each.image_ids) for each in truth.duplicates] == [("one", (first, second))]


async def test_the_truth_counts_calls(customer: Customer) -> None:
    """Calls are counted by kind and by status, with the most at once."""
    await customer.store()
    await asyncio.gather(*(customer.result("none") for _ in range(4)))
    truth = customer.emulator.truth()
    assert truth.calls == {"reserve": 1, "upload": 1, "result": 4}
    assert truth.calls_by_status == {200: 2, 404: 4}
    assert (truth.peak_uploads, truth.max_calls_in_window) == (1, 5)
    assert list(truth.windows.values()) == [5]


async def test_the_peak_counts_calls_at_once(enter: Enter) -> None:
    """Calls that hang together are counted together."""
    customer = await enter()
    customer.emulator.script_always("buckets", Fault(FaultKind.HANG))
    waiting = [asyncio.create_task(customer.buckets()) for _ in range(3)]
    await serving(customer.emulator, 3)
    await customer.emulator.stop()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_truth_is_there_as_json(customer: Customer) -> None:
    """Other processes read the same truth over HTTP."""
    await customer.store(tile="图")
    reply = await customer.send("GET", f"{customer.emulator.base_url}/_emulator/truth")
    assert reply.json == json.loads(customer.emulator.truth().as_json())
    assert reply.json["images"][0]["tile"] == "图"
    assert reply.json["calls_by_status"] == {"200": 2}


async def test_the_calls_tell_no_secret(customer: Customer) -> None:
    """The call log has neither tokens nor signatures nor the secret token, but a fingerprint."""
    await customer.store()
    query = "grant_type=authorization_code&site_id=1003&code=emulator-secret"
    await customer.send("POST", f"{customer.emulator.auth_url}/oauth/token?{query}")
    reply = await customer.send("GET", f"{customer.emulator.base_url}/_emulator/calls")
    calls = [json.loads(line) for line in reply.body.splitlines()]
    assert [call["kind"] for call in calls] == ["reserve", "upload", "token"]
    assert [bool(call["token"]) for call in calls] == [True, False, False]
    assert b"signature" not in reply.body
    assert b"emulator-token" not in reply.body
    assert b"emulator-secret" not in reply.body


async def test_the_log_keeps_the_latest_calls(enter: Enter) -> None:
    """The log is bounded, the counts go on."""
    customer = await enter(calls_kept=2)
    for _ in range(3):
        await customer.buckets()
    assert len(customer.emulator.calls()) == 2
    assert customer.emulator.truth().calls == {"buckets": 3}


async def test_faults_can_be_planned_over_http(customer: Customer) -> None:
    """Another process plans faults; nonsense, a foreign type and too much are refused."""
    url = f"{customer.emulator.base_url}/_emulator/faults"
    body = b'{"next": [{"call": "buckets", "faults": [{"kind": "status", "status": 503}]}]}'
    as_json = {"Content-Type": "application/json"}
    assert (await customer.send("POST", url, body=body, headers=as_json)).status == 200
    assert (await customer.buckets()).status == 503
    assert (await customer.send("POST", url, body=b"{", headers=as_json)).status == 400
    assert (await customer.send("POST", url, body=b" " * 1_100_000, headers=as_json)).status == 400
    assert (await customer.send("POST", url, body=body, headers={"Content-Type": "text/plain"})).status == 400
    assert (await customer.send("GET", url)).status == 404


async def test_the_page_lists_pictures_and_escapes_them(customer: Customer) -> None:
    """A person sees the stored pictures; what a tile's id holds stays text."""
    await customer.store(tile="<script>alert(1)</script>")
    reply = await customer.send("GET", customer.emulator.base_url + "/")
    page = reply.body.decode()
    assert "1 stored images" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    link = page.partition('href="/bucket')[2].partition('"')[0]
    assert (await customer.send("GET", f"{customer.emulator.base_url}/bucket{link}")).body == GIF
    assert "default-src 'none'" in reply.headers["content-security-policy"]


async def test_what_is_no_address_of_the_emulator_is_not_found(customer: Customer) -> None:
    """Any other path is 404 and asks for nothing more."""
    assert (await customer.send("GET", f"{customer.emulator.base_url}/favicon.ico", token=True)).status == 404


def settings(folder: Path) -> EmulatorSettings:
    """An emulator that keeps what it has."""
    return EmulatorSettings(folder=folder, processing=(1000, 1000))


async def test_a_folder_is_found_again(tmp_path: Path, clock: FakeClock) -> None:
    """After a restart slots, pictures, reposts and the port are as they were, and processing is over."""
    async with Emulator(settings(tmp_path), clock=clock) as one, aiohttp.ClientSession() as session:
        customer = Customer(one, session)
        stored, waiting = (await customer.reserve()).json, (await customer.reserve()).json
        assert (await customer.post(stored["url"])).status == 200
        assert (await customer.post(stored["url"])).status == 409
        assert (await customer.result(stored["id"])).status == 404
        before, base_url = one.truth(), one.base_url
        (tmp_path / "incoming" / "half").write_bytes(b"left behind")
    async with Emulator(settings(tmp_path), clock=clock) as two, aiohttp.ClientSession() as session:
        customer = Customer(two, session)
        after = two.truth()
        assert (after.images, after.reposts, after.slots) == (before.images, 1, 2)
        assert two.base_url == base_url
        assert not list((tmp_path / "incoming").iterdir())
        assert (await customer.result(stored["id"])).json["set"]
        assert (await customer.post(waiting["url"])).status == 200
        assert (await customer.reserve()).json["id"] not in {stored["id"], waiting["id"]}


async def test_a_port_that_is_taken_is_let_be(tmp_path: Path) -> None:
    """If the last port is in use by now, another one is taken."""
    async with Emulator(EmulatorSettings(folder=tmp_path / "a")) as one:
        (tmp_path / "b").mkdir()
        journal = (tmp_path / "a" / "journal.jsonl").read_bytes()
        (tmp_path / "b" / "journal.jsonl").write_bytes(journal)
        async with Emulator(EmulatorSettings(folder=tmp_path / "b")) as two:
            assert one.base_url != two.base_url


async def test_a_line_cut_off_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    """Half a last line is cut away and the journal goes on from there."""
    async with Emulator(settings(tmp_path)) as emulator, aiohttp.ClientSession() as session:
        await Customer(emulator, session).store()
    journal = tmp_path / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"fact": "slot", "sl')
    async with Emulator(settings(tmp_path)) as emulator, aiohttp.ClientSession() as session:
        assert len(emulator.truth().images) == 1
        await Customer(emulator, session).store()
    async with Emulator(settings(tmp_path)) as emulator:
        assert len(emulator.truth().images) == 2


@pytest.mark.parametrize("line", [b"not json\n", b"[]\n", b'{"fact": "other"}\n', b'{"fact": "slot"}\n'])
async def test_a_foreign_journal_is_refused(tmp_path: Path, line: bytes) -> None:
    """A file that is no journal is named with its line, and nothing is left running."""
    (tmp_path / "journal.jsonl").write_bytes(b'{"fact": "port", "port": 1}\n' + line)
    with pytest.raises(ValueError, match=r"journal\.jsonl, line 2: this is no journal"):
        await Emulator(settings(tmp_path)).start()


async def test_a_temporary_folder_goes_with_the_emulator() -> None:
    """Trying the emulator out leaves nothing behind."""
    async with Emulator() as emulator:
        folder = emulator.folder
        assert folder.is_dir()
    assert not folder.exists()


async def test_an_emulator_that_does_not_run_says_so() -> None:
    """Asking for the address or the folder too early, or after the end, is an error."""
    emulator = Emulator()
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.api_url
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.folder
    await emulator.start()
    await emulator.stop()
    await emulator.stop()
    with pytest.raises(RuntimeError, match="not running"):
        emulator.truth()


async def test_a_port_can_be_asked_for_and_be_taken() -> None:
    """A given port that is in use is an error, and nothing is left behind."""
    async with Emulator() as one:
        port = int(one.base_url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Emulator(EmulatorSettings(port=port)).start()


async def test_it_listens_on_ipv6_too() -> None:
    """The other loopback address is written in brackets."""
    async with Emulator(EmulatorSettings(host="::1")) as emulator, aiohttp.ClientSession() as session:
        assert emulator.base_url.startswith("http://[::1]:")
        assert (await Customer(emulator, session).buckets()).status == 200


async def test_it_serves_until_it_is_cancelled() -> None:
    """The command line's way: told when it listens, ended by cancellation, clean."""
    ready: asyncio.Future[Emulator] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(EmulatorSettings(), ready=ready.set_result))
    folder = (await ready).folder
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not folder.exists()


async def test_latency_delays_calls(enter: Enter) -> None:
    """Every call waits for its drawn latency, during which the emulator can still stop at once."""
    customer = await enter(latency=(600, 600))
    waiting = asyncio.create_task(customer.buckets())
    await serving(customer.emulator, 1)
    async with asyncio.timeout(1):
        await customer.emulator.stop()
    with pytest.raises(aiohttp.ClientError):
        await waiting
