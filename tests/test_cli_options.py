"""The options that only a real shop can tell the values of, the bandwidth limit, and `tileferry confirm`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.pictures import make
from tileferry.cli import confirming, main, uploading
from tileferry.emulator import Emulator, EmulatorSettings
from tileferry.model import ImageKind
from tileferry.settings import API_URL, AUTH_URLS, Pace, Settings, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import TypeVar

    from tileferry.auth import Credentials
    from tileferry.cli.screen import Screen
    from tileferry.cli.uploading import Job
    from tileferry.events import ConfirmEnded

    _T = TypeVar("_T")

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("ECWID_", "TILEFERRY_")) or name in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("ECWID_STORE_ID", "1003")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    # main() takes these over for the program; a test gives them back.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A manifest of three pictures."""
    lines = ["tileId,path"]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(make(ImageKind.PNG, seed=number))
        lines.append(f"tile-{number},{number}.png")
    path = tmp_path / "shop.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Emulated:
    """An emulator on a loop and a thread of its own, beside a command line that has its own loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, emulator: Emulator) -> None:
        self.emulator = emulator
        self._loop = loop

    def calls(self) -> dict[str, int]:
        """How many calls of each kind it has seen."""

        async def count() -> dict[str, int]:
            return {str(kind): number for kind, number in self.emulator.truth().calls.items()}

        return self.ask(count())

    def ask(self, question: Coroutine[object, object, _T]) -> _T:
        """What a coroutine on the emulator's loop comes to."""
        return asyncio.run_coroutine_threadsafe(question, self._loop).result(10)


@contextlib.contextmanager
def emulated(settings: EmulatorSettings) -> Iterator[Emulated]:
    """A running emulator."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    emulator = Emulator(settings)
    running = Emulated(loop, emulator)
    try:
        running.ask(emulator.start())
        try:
            yield running
        finally:
            running.ask(emulator.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    """An emulator that is ready at once, to which the environment points."""
    with emulated(EmulatorSettings(rate=None, processing=(0.0, 0.0))) as running:
        monkeypatch.setenv("ECWID_API_URL", running.emulator.api_url)
        monkeypatch.setenv("ECWID_TOKEN", running.emulator.settings.token)
        yield running


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What `upload` was asked to do; nothing is done."""
    taken: list[Job] = []

    async def ferry(job: Job, _manifest: object, _screen: Screen, _interruption: object) -> int:
        taken.append(job)
        return 0

    monkeypatch.setattr(uploading, "_ferry", ferry)
    monkeypatch.setenv("ECWID_TOKEN", "t")
    return taken


# --- upload


def settings_for(jobs: list[Job], shop: Path, words: str) -> Settings:
    """The settings that `upload` makes of these words."""
    assert main(["upload", str(shop), *words.split()]) == 0
    (berth,) = jobs.pop().berths
    return berth.settings


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", Settings(store_id=1003)),
        ("--bwlimit 2M", Settings(store_id=1003, pace=Pace(bandwidth=2 * 1024**2))),
        ("--bwlimit 512", Settings(store_id=1003, pace=Pace(bandwidth=512 * 1024))),
        ("--bwlimit off", Settings(store_id=1003)),
        ("--count-uploads", Settings(store_id=1003, pace=Pace(count_uploads=True))),
        ("--window-margin 2.5", Settings(store_id=1003, pace=Pace(margin=2.5))),
        ("--first-result 7", Settings(store_id=1003, timing=Timing(first_result=7))),
        ("--settle 90", Settings(store_id=1003, timing=Timing(settle=90))),
        ("--slot-lifetime 600", Settings(store_id=1003, timing=Timing(slot_lifetime=600))),
    ],
)
def test_options_become_settings(jobs: list[Job], shop: Path, words: str, expected: Settings) -> None:
    """Each option of the real shop's arrives where it belongs; left out, each has the library's own default."""
    assert settings_for(jobs, shop, words) == expected


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--bwlimit fast", "the bandwidth limit fast is not understood"),
        ("--bwlimit 10B", "the bandwidth limit 10B is less than"),
        ("--window-margin 61", "margin is 61"),
        ("--first-result -1", "first_result is -1"),
        ("--settle nan", "settle is nan"),
        ("--auth-url http://api.example", "the auth URL would send the token unencrypted"),
        ("--auth-url nowhere", "the auth URL is not a web address"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_sentence_and_exit_2(
    jobs: list[Job], shop: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent, a wrong value is refused by its name."""
    assert main(["upload", str(shop), *words.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert jobs == []


@pytest.mark.parametrize(
    ("words", "environment", "auth_url"),
    [
        ("", {}, API_URL),
        ("--api-url https://api.example/v1", {}, "https://api.example/v1"),
        ("--auth-url https://auth.example/x/", {}, "https://auth.example/x"),
        ("--auth-url " + AUTH_URLS[1], {"ECWID_API_URL": "https://api.example/v1"}, AUTH_URLS[1]),
        ("", {"ECWID_AUTH_URL": AUTH_URLS[1]}, AUTH_URLS[1]),
        ("", {"ECWID_AUTH_URL": ""}, API_URL),
        ("--auth-url https://auth.example", {"ECWID_AUTH_URL": AUTH_URLS[1]}, "https://auth.example"),
    ],
)
@pytest.mark.parametrize("verb", ["upload", "confirm"])
def test_where_a_secret_token_is_exchanged(
    verb: str,
    words: str,
    environment: dict[str, str],
    auth_url: str,
    jobs: list[Job],
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exchange happens where --auth-url or ECWID_AUTH_URL say, and else where the API is."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ECWID_TOKEN")
    monkeypatch.setenv("ECWID_SECRET_TOKEN", "s")
    credentials: list[Credentials] = []

    async def confirm(_settings: Settings, given: Credentials, **_: object) -> ConfirmEnded:
        credentials.append(given)
        raise asyncio.CancelledError

    monkeypatch.setattr(confirming, "confirm", confirm)
    if verb == "upload":
        assert main(["upload", str(shop), *words.split()]) == 0
        credentials.append(jobs[0].berths[0].credentials)
    else:
        with contextlib.suppress(asyncio.CancelledError):
            main(["confirm", *words.split()])
    assert [(given.secret_token, given.auth_url) for given in credentials] == [("s", auth_url)]


@pytest.mark.parametrize("verb", ["upload", "confirm"])
def test_an_exchange_at_another_home(
    verb: str, server: Emulated, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --auth-url the app's secret goes there and nowhere else; the token it brings is used for the API."""
    assert main(["upload", str(shop), "--no-confirm", "-q"]) == 0
    monkeypatch.delenv("ECWID_TOKEN")
    monkeypatch.setenv("ECWID_SECRET_TOKEN", server.emulator.settings.secret_token)
    home = EmulatorSettings(rate=None)
    with emulated(home) as elsewhere:
        # What the other home hands out is refused by the API; but that is where the secret went.
        code = main([verb, *([str(shop)] if verb == "upload" else []), "--auth-url", elsewhere.emulator.auth_url])
        assert (code, elsewhere.calls()) == (3, {"token": 1})
    assert "token" not in server.calls()
    words = [str(shop), "--first-result", "0.1"] if verb == "upload" else []
    assert main([verb, *words, "--auth-url", server.emulator.auth_url]) == 0
    assert server.calls()["token"] == 1


def test_a_limited_upload_arrives(server: Emulated, shop: Path) -> None:
    """An upload with --bwlimit is an upload."""
    assert main(["upload", str(shop), "--bwlimit", "10M", "--first-result", "0.1", "-q"]) == 0
    assert server.calls()["upload"] == 3


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option of upload and confirm stands in the README, as it is typed."""
    readme = README.read_text(encoding="utf-8")
    for verb in ("upload", "confirm"):
        main([verb, "--help"])
        shown = capsys.readouterr().out.split("Options:")[1]
        options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
        assert len(options) >= 9
        assert sorted(option for option in options if f"`{option}" not in readme) == []


def test_both_homes_of_the_exchange_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has trouble with the token finds the other documented address in the help."""
    main(["upload", "--help"])
    text = capsys.readouterr().out
    assert all(home in text for home in AUTH_URLS)


# --- confirm


def test_confirm_collects_what_was_sent_in_haste(
    server: Emulated, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After --no-confirm, confirm needs no manifest, says one line, and then the results have URLs."""
    assert main(["upload", str(shop), "--no-confirm", "-q"]) == 0
    capsys.readouterr()
    assert main(["confirm"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("store 1003: 3 results collected in ")
    assert line.endswith(", none is left waiting")
    assert main(["results", "--format", "jsonl"]) == 0
    assert all(json.loads(row)["url"] for row in capsys.readouterr().out.splitlines())
    assert server.calls()["upload"] == 3
    assert main(["confirm", "-q"]) == 0
    assert "0 results collected" in capsys.readouterr().err


def test_confirm_says_what_still_waits(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where images are not there in time, the exit code is 1 and the line says how many and what to do."""
    with emulated(EmulatorSettings(rate=None, processing=(3600.0, 3600.0))) as slow:
        monkeypatch.setenv("ECWID_API_URL", slow.emulator.api_url)
        monkeypatch.setenv("ECWID_TOKEN", slow.emulator.settings.token)
        assert main(["upload", str(shop), "--no-confirm", "-q"]) == 0
        capsys.readouterr()
        assert main(["confirm", "--patience", "0"]) == 1
        assert "3 still waiting (3 sent); ask again later" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "check"),
    [
        ("-v", lambda lines: sum("in the store as" in line for line in lines) == 3),
        ("-vv", lambda lines: sum("result: HTTP 200" in line for line in lines) == 3),
        ("--log-format=json", lambda lines: [json.loads(line)["event"] for line in lines] == ["confirm_ended"]),
    ],
)
def test_confirm_tells_as_much_as_is_wanted(
    option: str,
    check: Callable[[list[str]], bool],
    server: Emulated,
    shop: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """-v tells each image, -vv each call, and JSON is one object a line."""
    assert main(["upload", str(shop), "--no-confirm", "-q"]) == 0
    assert server.calls()["upload"] == 3
    capsys.readouterr()
    assert main(["confirm", option]) == 0
    assert check(capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("words", "unset", "code", "sentence"),
    [
        ([], "ECWID_STORE_ID", 2, "which store?"),
        ([], "ECWID_TOKEN", 2, "no token"),
        ([], "", 2, "there is no ledger at"),
        (["--patience", "-1"], "", 2, "patience is -1"),
        (["--rate", "0"], "", 2, "rate is 0"),
        (["--ledger", "other.sqlite3"], "", 2, "there is no ledger at other.sqlite3"),
    ],
)
def test_what_prevents_confirm_is_a_sentence(
    words: list[str],
    unset: str,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is missing or makes no sense is said, and no file is left behind."""
    monkeypatch.setenv("ECWID_TOKEN", "t")
    if unset:
        monkeypatch.delenv(unset)
    assert main(["confirm", *words]) == code
    assert sentence in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_confirm_with_a_refused_token_is_exit_3(
    server: Emulated, shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused token ends it with a sentence, and a token file that others can read is warned about."""
    assert main(["upload", str(shop), "--no-confirm", "-q"]) == 0
    capsys.readouterr()
    token_file = Path("token.txt")
    token_file.write_text("wrong\n", encoding="utf-8")
    token_file.chmod(0o644)
    assert main(["confirm", "--token-file", str(token_file)]) == 3
    said = capsys.readouterr().err
    assert "the API refuses the token" in said
    assert ("others on this computer can read token.txt" in said) is (os.name != "nt")
    assert "result" not in server.calls()


def test_stopping_confirm_keeps_what_was_collected(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C ends it at once, with a word that nothing is lost and the usual exit code."""
    monkeypatch.setenv("ECWID_TOKEN", "t")

    async def confirm(*_: object, **__: object) -> ConfirmEnded:
        os.kill(os.getpid(), 2)
        await asyncio.Event().wait()
        raise AssertionError("it was to be cancelled")

    monkeypatch.setattr(confirming, "confirm", confirm)
    assert main(["confirm"]) == 130
    assert "what was collected is recorded" in capsys.readouterr().err
