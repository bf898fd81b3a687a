"""Token, app secret and upload addresses are in nothing that a failing, talkative run leaves behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shop import EMULATOR, QUICK, Shop, open_shop
from tileferry import Credentials, TileferryError, answers
from tileferry.cli.crash import crash_report
from tileferry.emulator import EmulatorSettings, Fault, FaultKind
from tileferry.model import Slot

TOKEN = "static-token-Zx81QvTokenValue"
SECRET = "app-secret-Kp55WnSecretValue"
EXCHANGED = "emulated_"
"""How every token begins that the emulator gives in exchange."""

SHOP = replace(
    EMULATOR,
    token=TOKEN,
    secret_token=SECRET,
    fault_rate=0.3,
    fault_kinds=tuple(kind for kind in FaultKind if kind is not FaultKind.SLOT_REFUSED),
    seed=7,
)

IMPATIENT = """
import sys
from tileferry import answers, settings
settings.Timing.__init__.__kwdefaults__.update(
    settle=0.1, resend=1.0, answer=0.4, first_result=0.05,
    backoff=0.01, backoff_limit=0.05, probe=0.05, probe_limit=0.1,
)
answers.LONGEST_PAUSE = 0.05
"""
"""Shortens the waits that have no option, so that each fault can be met within a test's time."""

PROGRAM = f"""{IMPATIENT}
from tileferry.cli import main
sys.exit(main())
"""

EXCHANGING = f"""{IMPATIENT}
from tileferry.auth import Credentials
Credentials.from_environment.__func__.__kwdefaults__["auth_url"] = "AUTH_URL"
from tileferry.cli import main
sys.exit(main())
"""
"""A tileferry whose token exchange is at home elsewhere; there is no option for that."""

CRASHING = f"""{IMPATIENT}
from tileferry import transfer
from tileferry.cli import main

async def broken(self, slot):
    raise RuntimeError("unforeseen trouble with " + slot.url + " and " + self._api._auth._token)

transfer.Transfer._post = broken
sys.exit(main())
"""
"""A tileferry with a mistake whose message holds what must not be told."""


def _signatures(shop: Shop) -> list[str]:
    """What makes upload addresses secret: the signature of each slot that was ever reserved."""
    lines = (shop.emulator.folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [str(fact["query"]) for fact in map(json.loads, lines) if "query" in fact]
    assert queries
    return [query.partition("signature=")[2] for query in queries]


def _write_manifest(shop: Shop, number: int) -> None:
    lines = [f"{row.tile_id},{row.source}" for row in shop.pictures(number)]
    lines += ["missing tile,picture-0.jpg", "hero,nowhere.jpg", ",x.jpg"]
    (shop.folder / "shop.csv").write_text("\n".join(["tileId,path", *lines]))


async def _run(
    shop: Shop, program: str, *words: str, environment: dict[str, str]
) -> tuple[int | None, dict[str, bytes]]:
    """The program over the shop's manifest in a process of its own: its exit code, and all that it has written."""
    place = shop.folder / "home"
    place.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "upload", str(shop.folder / "shop.csv"), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=place,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("ECWID_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "XDG_STATE_HOME": str(place / "state"),
            "PYTHONASYNCIODEBUG": "1",
            "ECWID_STORE_ID": str(shop.settings.store_id),
            **environment,
        },
    )
    command = Path(f"/proc/{process.pid}/cmdline")
    arguments = command.read_bytes() if command.exists() else b""
    try:
        async with asyncio.timeout(30):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    written = {"stdout": stdout, "stderr": stderr, "arguments": arguments}
    written |= {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return process.returncode, written


def _check_silent(written: dict[str, bytes], secrets: Iterable[str], *, but: Iterable[str] = ()) -> None:
    """None of the secrets is in any of what was written; `but` names what is not looked at."""
    for name, content in written.items():
        for secret in secrets:
            assert name in but or secret.encode() not in content, f"{name} holds {secret[:4]}..."


def _ledgers(written: dict[str, bytes]) -> list[str]:
    return [name for name in written if ".sqlite3" in name]


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_failing_talkative_run_tells_no_secret(form: str, tmp_path: Path) -> None:
    """With -vv, in either format, and with every kind of fault: neither output nor any file holds a secret.

    Upload addresses may be in the ledger, since a slot is needed again after a crash; tokens may not.
    """
    async with open_shop(tmp_path, SHOP) as shop:
        _write_manifest(shop, 8)
        code, written = await _run(
            shop,
            PROGRAM,
            *("-vv", "--log-format", form, "--results", "results.csv", "--api-url", shop.settings.api_url),
            *("--rate", "1000000", "--patience", "4", "--stall-timeout", "1"),
            environment={"ECWID_TOKEN": TOKEN},
        )
        assert code == 1
        assert b"reserve" in written["stderr"]
        assert len(shop.emulator.truth().faults) >= 3
        assert {"results.csv"} < written.keys()
        assert _ledgers(written)
        _check_silent(written, [TOKEN, SECRET])
        _check_silent(written, _signatures(shop), but=_ledgers(written))


async def test_an_exchanged_token_is_not_told_either(tmp_path: Path) -> None:
    """The app's secret travels in a query; neither it nor the tokens it is exchanged for are written anywhere."""
    async with open_shop(tmp_path, replace(SHOP, fault_rate=0.0)) as shop:
        _write_manifest(shop, 4)
        for fault in (FaultKind.RESET_BEFORE, FaultKind.STATUS, FaultKind.TRUNCATED, FaultKind.HTML):
            shop.emulator.script_next("token", Fault(fault))
        code, written = await _run(
            shop,
            EXCHANGING.replace("AUTH_URL", shop.emulator.auth_url),
            *("-vv", "--results", "results.jsonl", "--api-url", shop.settings.api_url, "--rate", "1000000"),
            environment={"ECWID_SECRET_TOKEN": SECRET},
        )
        assert code == 1
        assert shop.calls()["token"] == 5
        assert b"token: " in written["stderr"]
        _check_silent(written, [SECRET, EXCHANGED])
        _check_silent(written, _signatures(shop), but=_ledgers(written))


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_refused_token_is_not_told(form: str, tmp_path: Path) -> None:
    """The sentence that a wrong token ends with does not repeat it."""
    async with open_shop(tmp_path, replace(SHOP, fault_rate=0.0)) as shop:
        _write_manifest(shop, 1)
        wrong = "mistyped-token-Lm37"
        code, written = await _run(
            shop,
            PROGRAM,
            *("-vv", "--log-format", form, "--api-url", shop.settings.api_url),
            environment={"ECWID_TOKEN": wrong},
        )
        assert code == 3
        _check_silent(written, [wrong])


async def test_the_report_of_a_crash_tells_no_secret(tmp_path: Path) -> None:
    """When tileferry itself is wrong, what it prints names places and types but no foreign message."""
    async with open_shop(tmp_path, replace(SHOP, fault_rate=0.0)) as shop:
        _write_manifest(shop, 2)
        code, written = await _run(
            shop,
            CRASHING,
            *("-vv", "--results", "results.csv", "--api-url", shop.settings.api_url, "--rate", "1000000"),
            environment={"ECWID_TOKEN": TOKEN},
        )
        assert code == 70
        assert b"RuntimeError" in written["stderr"]
        _check_silent(written, [TOKEN])
        _check_silent(written, _signatures(shop), but=_ledgers(written))


def _everything_raised(monkeypatch: pytest.MonkeyPatch) -> list[TileferryError]:
    """A list of all our own errors from now on."""
    raised: list[TileferryError] = []
    initialize = TileferryError.__init__

    def remember(self: TileferryError, *args: object) -> None:
        raised.append(self)
        initialize(self, *args)

    monkeypatch.setattr(TileferryError, "__init__", remember)
    return raised


def _told_by(error: BaseException) -> Iterator[str]:
    """All that an error says of itself in the forms in which errors get into logs and reports."""
    yield str(error)
    yield repr(error)
    yield "".join(traceback.format_exception(error))
    yield crash_report(error)


async def test_no_exception_tells_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every error that is raised on the way, in all its printed forms, and every logger at its most talkative."""
    monkeypatch.setattr(answers, "LONGEST_PAUSE", 0.05)
    raised = _everything_raised(monkeypatch)
    async with open_shop(tmp_path, SHOP) as shop:
        with caplog.at_level(logging.DEBUG):
            asyncio.get_running_loop().set_debug(enabled=True)
            credentials = Credentials(secret_token=SECRET, auth_url=shop.emulator.auth_url)
            outcomes = await shop.upload(
                [*shop.pictures(20), shop.picture("lost.jpg", tile="missing", line=99)],
                credentials=credentials,
                timing=replace(QUICK, patience=6.0),
            )
        secrets = [TOKEN, SECRET, EXCHANGED, *_signatures(shop)]
        told = [text for error in raised for text in _told_by(error)]
        told += [repr(event) for event in shop.events]
        told += [repr(outcome) for outcome in outcomes]
        told += [record.getMessage() for record in caplog.records]
        assert len(raised) >= 20
        assert [text for text in told for secret in secrets if secret in text] == []


async def test_no_exception_for_an_unreachable_host_tells_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that never come about, to addresses that hold a signature, are told of by host alone."""
    raised = _everything_raised(monkeypatch)
    async with open_shop(tmp_path, replace(SHOP, fault_rate=0.0)) as shop:
        for address in (
            "http://127.0.0.1:1/?signature=s3cret",
            "http://localhost:1/s3cret",
            "http://u:s3cret@127.0.0.1/",
        ):
            body = json.dumps({"id": "x", "url": address}).encode()
            shop.emulator.script_next("reserve", Fault(FaultKind.BODY, body=body))
        rows = shop.pictures(3)
        outcomes = await shop.upload(rows, timing=replace(QUICK, patience=0.1, settle=0.01, max_outage=0.2))
        told = [text for error in raised for text in _told_by(error)]
        told += [repr(outcome) for outcome in outcomes] + [repr(event) for event in shop.events]
        assert len(raised) >= 3
        assert [text for text in told if "s3cret" in text or TOKEN in text] == []


def test_records_that_hold_secrets_do_not_show_them() -> None:
    """Neither credentials nor slots nor the emulator's settings show their secrets in `repr` or `str`."""
    records = [
        Credentials(token=TOKEN),
        Credentials(secret_token=SECRET),
        Slot("image", f"https://upload.example/?signature={SECRET}"),
        EmulatorSettings(token=TOKEN, secret_token=SECRET),
    ]
    for record in records:
        for text in (repr(record), str(record), f"{record}"):
            assert TOKEN not in text
            assert SECRET not in text
