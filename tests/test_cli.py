"""The command line as a whole: words typed to settings, errors to exit codes, and what is written where."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tileferry.cli import emulating, looking, main, uploading
from tileferry.clock import Clock
from tileferry.emulator import Emulator, EmulatorSettings
from tileferry.errors import (
    FatalError,
    LedgerBusyError,
    LedgerError,
    ManifestError,
    OutageError,
    RejectedError,
    TokenRefusedError,
    UsageError,
)
from tileferry.events import DrainBegan, Listener, RowEnded, RunEnded, Summary
from tileferry.ledger import open_ledger
from tileferry.model import BadRow, ImageKind, Outcome, Row, SourceImage, Status
from tileferry.settings import EMULATOR_HOST, Pace, Settings, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from tileferry.auth import Credentials

VERBS = ("upload", "confirm", "status", "results", "emulator")
TOKEN = "secret-token-7"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("ECWID_", "TILEFERRY_")) or name in {
            *("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    # It would hide what happens to text that is still buffered when a program ends.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    # Programs that a test starts find the package where this one has found it.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if Path(path).is_absolute()))
    # main() takes these over for the program; a test gives them back.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


@dataclass
class FakeRun:
    """A run that does what a test has scripted, in the place of the real one."""

    outcomes_: list[Outcome] = field(default_factory=list)
    refusal: FatalError | None = None
    end: FatalError | None = None
    close: FatalError | None = None
    unreadable: LedgerError | None = None
    during: Callable[[], None] = lambda: None
    on_drain: Callable[[], None] = lambda: None
    until_drained: bool = False
    forever: bool = False
    opened: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    settings: Settings | None = None
    credentials: Credentials | None = None
    manifest: str = ""
    extra_columns: Sequence[str] = ()
    rows: list[Row | BadRow] = field(default_factory=list)
    listeners: Sequence[Listener] = ()

    @contextlib.asynccontextmanager
    async def open(
        self,
        settings: Settings,
        credentials: Credentials,
        *,
        listeners: Sequence[Listener],
        manifest: str,
        extra_columns: Sequence[str],
    ) -> AsyncIterator[FakeRun]:
        self.opened += 1
        self.settings, self.credentials = settings, credentials
        self.listeners, self.manifest, self.extra_columns = listeners, manifest, extra_columns
        if self.refusal is not None:
            raise self.refusal
        yield self
        self.tell(RunEnded(summary=self.summary))
        if self.close is not None:
            raise self.close

    def tell(self, event: RowEnded | RunEnded | DrainBegan) -> None:
        for listener in self.listeners:
            listener(event)

    async def upload(self, rows: Iterable[Row | BadRow]) -> AsyncIterator[Outcome]:
        self.rows = list(rows)
        self.during()
        if self.until_drained:
            await self.drained.wait()
        for outcome in self.outcomes_:
            self.tell(RowEnded(outcome=outcome))
            yield outcome
        if self.forever:
            await asyncio.Event().wait()
        if self.end is not None:
            raise self.end

    def drain(self) -> None:
        self.drained.set()
        self.on_drain()
        self.tell(DrainBegan(grace=10, in_flight=0))

    async def flush(self) -> None:
        if self.unreadable is not None:
            raise self.unreadable

    def outcomes(self) -> Iterator[Outcome]:
        return iter(self.outcomes_)

    @property
    def summary(self) -> Summary:
        statuses = {
            status: number
            for status in Status
            if (number := sum(outcome.status is status for outcome in self.outcomes_))
        }
        return Summary(run_id=1, store_id=1003, ledger=Path("ledger.sqlite3"), statuses=statuses)


def outcome(status: Status, line: int = 2) -> Outcome:
    error = "not an image" if status is Status.FAILED else ""
    return Outcome(line=line, tile_id="hero-1", source="a.jpg", status=status, error=error)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun([outcome(Status.UPLOADED)])
    monkeypatch.setattr(uploading, "open_run", run.open)
    monkeypatch.setenv("ECWID_STORE_ID", "1003")
    monkeypatch.setenv("ECWID_TOKEN", TOKEN)
    return run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.csv"
    path.write_text("tileId,path,alt\nhero-1,a.jpg,A teapot\n", encoding="utf-8")
    return path


# --- words


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_eighty_columns_and_shows_examples(
    verb: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each help can be read on the narrowest usual terminal, looks the same on a wide one, and shows the way."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*filter(None, [verb]), option]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "  tileferry upload " in text if not verb else f"  tileferry {verb} " in text
    assert "..." not in text.split("Commands:")[-1]


def test_help_needs_no_heavy_library() -> None:
    """Help and version are there at once, because nothing that they do not need is loaded for them."""
    script = """
import sys
before = set(sys.modules)
from tileferry.cli import main
codes = [main(["--help"]), main(["upload", "--help"]), main(["--version"])]
heavy = {"aiohttp", "aiofiles", "sqlite3", "msgspec", "rich.table", "rich.console", "asyncio", "tenacity"}
sys.exit(str(sorted(heavy & set(sys.modules) - before) + codes))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "[0, 0, 0]\n"


def test_version_tells_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """tileferry, Python and the HTTP client are named with their versions."""
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tileferry", "Python", "aiohttp", "uvloop"]
    assert re.search(r"\d", lines[2])


def test_a_missing_library_is_no_obstacle_to_the_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version can be asked of a half-installed program too."""
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert main(["--version"]) == 0
    assert "aiohttp not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["uplaod"], "upload"),
        (["upload", "--concurency", "3", "x"], "--concurrency"),
        (["upload", "x", "--store", "abc"], "ECWID_STORE_ID"),
        (["upload"], "MANIFEST"),
        (["results", "--status", "lost"], "failed"),
    ],
)
def test_mistyped_words_are_usage_errors_with_a_hint(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A typing mistake ends with exit code 2 and names what was probably meant."""
    assert main(words) == 2
    assert hint in capsys.readouterr().err


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Who types the bare name learns what there is, and a script learns that it is wrong."""
    assert main([]) == 2
    assert "Commands:" in "".join(capsys.readouterr())


# --- options to settings


def test_options_become_settings(fake: FakeRun, shop: Path) -> None:
    """Each option of `upload` arrives where it belongs."""
    words = (
        "--store 7 --api-url https://api.example/v1/ --concurrency 3 --rate 99 --ledger l.sqlite3 --patience 5 "
        "--max-outage 6 --stall-timeout 8 --field-name picture --no-confirm --force"
    )
    assert main(["upload", str(shop), *words.split()]) == 0
    assert fake.settings == Settings(
        store_id=7,
        api_url="https://api.example/v1",
        ledger=Path("l.sqlite3"),
        confirm=False,
        force=True,
        field_name="picture",
        pace=Pace(concurrency=3, rate=99),
        timing=Timing(patience=5, max_outage=6, stall=8),
    )
    assert fake.manifest == str(shop)
    assert fake.extra_columns == ("alt",)
    assert [row.tile_id for row in fake.rows] == ["hero-1"]


def test_the_environment_stands_in_for_options(fake: FakeRun, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Store and API come from the environment where no option says otherwise; all else has its default."""
    monkeypatch.setenv("ECWID_API_URL", "https://other.example/v1")
    assert main(["upload", str(shop)]) == 0
    assert fake.settings == Settings(store_id=1003, api_url="https://other.example/v1")
    assert fake.credentials is not None
    assert fake.credentials.token == TOKEN


@pytest.mark.parametrize(
    ("words", "unset", "sentence"),
    [
        (["shop.csv"], "ECWID_STORE_ID", "which store?"),
        (["shop.csv"], "ECWID_TOKEN", "no token"),
        (["shop.csv", "--api-url", "http://api.example"], "", "unencrypted"),
        (["shop.csv", "--concurrency", "0"], "", "concurrency is 0"),
        (["shop.csv", "--results", "results.xls"], "", "must end in .csv or .jsonl"),
        (["missing.csv"], "", "missing.csv"),
        (["shop.csv", "--token-file", "nowhere"], "", "token file nowhere cannot be read"),
    ],
)
def test_what_cannot_begin_is_exit_2_before_anything_is_opened(
    fake: FakeRun,
    shop: Path,
    words: list[str],
    unset: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing store, token or manifest and a senseless option end at once, with a sentence."""
    if unset:
        monkeypatch.delenv(unset)
    assert main(["upload", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tileferry: ")
    assert sentence in told
    assert fake.opened == 0
    assert shop.exists()


def test_an_unknown_loop_is_a_usage_error(
    fake: FakeRun, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt TILEFERRY_LOOP is told instead of ignored."""
    monkeypatch.setenv("TILEFERRY_LOOP", "uvlop")
    assert main(["upload", str(shop)]) == 2
    assert "TILEFERRY_LOOP must be" in capsys.readouterr().err
    assert fake.opened == 0


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_token_file_that_others_can_read_is_warned_about(
    fake: FakeRun, shop: Path, tmp_path: Path, mode: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The token file is used either way, but its owner learns when it is open to others."""
    path = tmp_path / "token"
    path.write_text("token-of-the-file\n", encoding="utf-8")
    path.chmod(mode)
    assert main(["upload", str(shop), "--token-file", str(path)]) == 0
    told = capsys.readouterr().err
    assert ("others on this computer can read" in told) is warned
    assert fake.credentials is not None
    assert fake.credentials.token == "token-of-the-file"
    assert "token-of-the-file" not in told


# --- ends to exit codes


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        ([Status.UPLOADED, Status.UNCHANGED, Status.DUPLICATE], 0),
        ([Status.UPLOADED, Status.FAILED], 1),
        ([Status.PENDING], 1),
    ],
)
def test_the_exit_code_tells_whether_every_row_is_in_the_store(
    fake: FakeRun, shop: Path, statuses: list[Status], code: int
) -> None:
    """0 when nothing is missing, 1 when something is."""
    fake.outcomes_ = [outcome(status) for status in statuses]
    assert main(["upload", str(shop)]) == code


@pytest.mark.parametrize("when", ["at the start", "in the middle", "at the end"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FatalError("the plan does not include this."), 3),
        (TokenRefusedError("the token is wrong."), 3),
        (OutageError("the network stayed away."), 1),
        (ManifestError("shop.csv cannot be read on."), 2),
        (LedgerError("the disk is full."), 2),
        (LedgerBusyError("another run holds the ledger."), 4),
    ],
)
def test_a_fatal_error_is_one_sentence_and_its_exit_code(
    fake: FakeRun, shop: Path, when: str, error: FatalError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever it happens: the sentence comes last, what was done before stands in results and summary."""
    match when:
        case "at the start":
            fake.refusal = error
        case "in the middle":
            fake.end = error
        case _:
            fake.close = error
    assert main(["upload", str(shop), "--results", "results.csv"]) == code
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == f"tileferry: {error}"
    assert "Traceback" not in told
    assert Path("results.csv").exists() is (when != "at the start")
    assert ("uploaded" in told) is (when != "at the start")


def test_an_error_that_is_not_fatal_still_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any error of ours reaches the person as a sentence, never as a traceback."""

    def refuse(*_: object, **__: object) -> None:
        raise RejectedError("refused.")

    monkeypatch.setattr(looking, "show_status", refuse)
    assert main(["status", "--ledger", "l"]) == 1
    assert capsys.readouterr().err == "tileferry: refused.\n"


@pytest.mark.parametrize("unreadable", [LedgerError("the ledger is damaged."), None])
def test_results_that_cannot_be_written_do_not_cost_the_summary(
    fake: FakeRun,
    shop: Path,
    unreadable: LedgerError | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run's figures are shown, the reason follows, and the exit code is not that of a success."""
    if unreadable is None:
        monkeypatch.setattr(uploading, "write_results", _full_disk)
    fake.unreadable = unreadable
    assert main(["upload", str(shop), "--results", "results.csv"]) == 2
    told = capsys.readouterr().err
    assert "Done: every row is in the store (1 row)." in told
    assert "results.csv\n" not in told
    assert told.endswith("damaged.\n" if unreadable else "the disk is full.\n")


def _full_disk(*_: object) -> int:
    raise UsageError("the disk is full.")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_writes_the_results_and_has_its_exit_code(
    fake: FakeRun, shop: Path, number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first signal the run ends in order: drained, results written, summary shown."""
    fake.outcomes_ = [outcome(Status.PENDING)]
    fake.during = lambda: os.kill(os.getpid(), number)
    fake.until_drained = True
    assert main(["upload", str(shop), "--results", "results.csv"]) == code
    assert fake.drained.is_set()
    assert Path("results.csv").read_text(encoding="utf-8").count("pending") == 1
    told = capsys.readouterr().err
    assert "stopping: nothing new is begun" in told
    assert "run the same command again:\n  tileferry upload" in told


def test_a_second_signal_ends_at_once(fake: FakeRun, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is waited for any more, not even the results."""
    fake.forever = True
    fake.during = lambda: os.kill(os.getpid(), signal.SIGTERM)
    fake.on_drain = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert main(["upload", str(shop), "--results", "results.csv"]) == 143
    assert not Path("results.csv").exists()
    assert capsys.readouterr().err.endswith("ended at once; nothing is lost, the same command goes on from here\n")


# --- what is written where


def test_nothing_goes_to_standard_output(fake: FakeRun, shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output is for data; a run speaks on standard error, plainly where that is no terminal."""
    fake.outcomes_ = [outcome(Status.FAILED)]
    assert main(["upload", str(shop), "--results", "results.csv"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("line 2  hero-1  a.jpg: not an image\nNot all rows are in the store (1 row).\n")
    assert "\r" not in err
    assert "\x1b" not in err
    assert TOKEN not in err
    with Path("results.csv").open(encoding="utf-8") as stream:
        assert stream.readline().endswith(",error,alt\n")


def test_quiet_tells_failures_and_one_line(fake: FakeRun, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-q leaves what failed and the sum of it."""
    fake.outcomes_ = [outcome(Status.UPLOADED), outcome(Status.FAILED)]
    assert main(["upload", str(shop), "-q"]) == 1
    assert capsys.readouterr().err == "line 2  hero-1  a.jpg: not an image\n1 uploaded, 1 failed in 0.0 s\n"


def test_verbose_tells_each_row(fake: FakeRun, shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-v adds the rows that went well."""
    assert main(["upload", str(shop), "-v"]) == 0
    assert re.search(r"^\d\d:\d\d:\d\d line 2  hero-1  a.jpg: uploaded$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("end", [None, OutageError("the network stayed away.")])
def test_json_logs_are_json_to_the_last_line(
    fake: FakeRun, shop: Path, end: FatalError | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program can parse every line, the fatal error included."""
    fake.end = end
    fake.outcomes_ = [outcome(Status.FAILED)]
    assert main(["upload", str(shop), "--log-format", "json"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    names = ["row_ended", "run_ended"] + (["error"] if end else [])
    assert [record["event"] for record in records] == names


def test_a_closed_standard_error_does_no_harm(fake: FakeRun, shop: Path) -> None:
    """A vanished terminal changes neither the uploads nor the exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    script = (
        "import sys\nfrom tileferry.cli import main\n"
        f"sys.exit(main(['upload', {str(shop)!r}, '--emulator-folder', 'emulated', '-v']))"
    )
    with os.fdopen(writing, "wb") as stderr:
        done = subprocess.run([sys.executable, "-c", script], stderr=stderr, check=False)
    # The manifest's only picture is missing, so one row failed; the pipe is nobody's business.
    assert done.returncode == 1
    assert Path("emulated/results.csv").exists()
    assert fake.opened == 0


# --- the emulator


def test_upload_to_the_emulator_needs_nothing_and_leaves_one_folder(
    fake: FakeRun, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store, no token: everything is in a folder whose place is printed, and a command resumes in it."""
    monkeypatch.delenv("ECWID_STORE_ID")
    monkeypatch.delenv("ECWID_TOKEN")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake.outcomes_ = [outcome(Status.FAILED)]
    assert main(["upload", str(shop), "--emulator", "--rate", "100000"]) == 1
    told = capsys.readouterr().err
    found = re.search(r"everything it keeps is in (.+)\n", told)
    assert found is not None
    folder = Path(found[1])
    assert folder.parent == tmp_path
    assert (folder / "results.csv").exists()
    assert f"  tileferry upload failed.csv --emulator --rate 100000 --emulator-folder {folder}\n" in told
    assert told.endswith(f"  tileferry emulator --folder {folder}\n")
    assert fake.settings is not None
    assert fake.settings.ledger_path == folder / "ledger.sqlite3"
    assert fake.settings.host == EMULATOR_HOST
    assert fake.settings.api_url.startswith("http://127.0.0.1:")
    assert fake.credentials is not None


@pytest.mark.parametrize(("rate", "limit"), [("30", 600), ("100000", 100_000)])
def test_the_embedded_emulator_is_no_slower_than_asked_for(
    fake: FakeRun, shop: Path, rate: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limit is the real API's, unless a higher rate is asked for, which would only run into it."""
    seen: list[EmulatorSettings] = []

    class Watched(Emulator):
        def __init__(self, settings: EmulatorSettings) -> None:
            seen.append(settings)
            super().__init__(settings)

    monkeypatch.setattr("tileferry.emulator.Emulator", Watched)
    assert main(["upload", str(shop), "--emulator-folder", "here", "--store", "42", "--rate", rate]) == 0
    assert [(settings.rate, settings.store_id) for settings in seen] == [(limit, 42)]


def test_what_was_named_stays_where_it_was_named(fake: FakeRun, shop: Path) -> None:
    """An emulated run writes ledger and results where the options say."""
    words = "--emulator-folder here --ledger mine.sqlite3 --results mine.jsonl"
    assert main(["upload", str(shop), *words.split()]) == 0
    assert fake.settings is not None
    assert fake.settings.ledger_path == Path("mine.sqlite3")
    assert Path("mine.jsonl").exists()


def test_a_folder_that_cannot_be_used_is_a_sentence(
    fake: FakeRun, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the place of the emulator's folder ends with exit code 2."""
    assert main(["upload", str(shop), "--emulator-folder", str(shop)]) == 2
    assert "the emulator's folder" in capsys.readouterr().err
    assert fake.opened == 0


def test_a_real_upload_and_a_second_one(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing faked: the picture is uploaded once, the second run finds it unchanged, and status tells."""
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "a.jpg")
    words = ["upload", str(shop), "--emulator-folder", "emulated"]
    assert main(words) == 0
    assert main(words) == 0
    assert re.search(r"unchanged +1 ", capsys.readouterr().err)
    assert main(["status", "--ledger", "emulated/ledger.sqlite3"]) == 0
    assert "1 confirmed" in capsys.readouterr().out
    text = Path("emulated/results.csv").read_text(encoding="utf-8")
    assert re.search(
        r"^2,hero-1,a\.jpg,unchanged,.+,http://127\.0\.0\.1:.+,40,30,.+,A teapot$", text, re.MULTILINE
    )


def test_several_stores_in_one_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row goes to the store that it names, each store has a ledger, and the results are in manifest order."""
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "a.jpg")
    (tmp_path / "stores.csv").write_text(
        "storeId,tileId,path\n7,hero,a.jpg\n8,hero,a.jpg\n7,foot,a.jpg\nx,foot,a.jpg\n", encoding="utf-8"
    )
    assert main(["upload", "stores.csv", "--emulator-folder", "emulated"]) == 1
    err = capsys.readouterr().err
    assert re.search(r"uploaded +3 ", err)
    assert re.search(r"store 7 +2 ", err)
    assert "stores.csv, line 5: the storeId is x" in err
    assert Path("emulated/ledger-7.sqlite3").exists()
    assert Path("emulated/ledger-8.sqlite3").exists()
    text = Path("emulated/results.csv").read_text(encoding="utf-8")
    assert re.findall(r"^(\d),(\w+),a.jpg,(\w+),.*,(\w)$", text, re.MULTILINE) == [
        ("2", "hero", "uploaded", "7"),
        ("3", "hero", "uploaded", "8"),
        ("4", "foot", "uploaded", "7"),
        ("5", "foot", "failed", "x"),
    ]
    assert main(["upload", "stores.csv", "--emulator-folder", "emulated", "--ledger", "one.sqlite3"]) == 2
    assert "each has a ledger of its own" in capsys.readouterr().err


def test_the_emulator_serves_until_stopped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints its address for scripts, its use for people, and ends well when asked to."""
    announce = emulating._announce

    def announce_and_stop(api_url: str, settings: EmulatorSettings) -> None:
        announce(api_url, settings)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(emulating, "_announce", announce_and_stop)
    assert main(["emulator", "--folder", "kept", "--store", "42", "--fault-rate", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/v1\n", out)
    assert f"tileferry upload MANIFEST --api-url {out.strip()}\n" in err
    assert "store 42" in err
    assert "Everything is kept in kept.\n" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "99999"], "port is 99999"),
        (["--folder", "shop.csv"], "the emulator cannot start"),
    ],
)
def test_an_emulator_that_cannot_be_is_a_sentence(
    shop: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A senseless port or folder ends with exit code 2."""
    assert shop.exists()
    assert main(["emulator", *words]) == 2
    assert sentence in capsys.readouterr().err


# --- status and results


LEDGER = Path("ledger.sqlite3")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two ended runs and one that goes on, for manifests in the folder `shop`."""

    async def fill() -> None:
        clock = Clock(now=lambda: 0.0, wall=lambda: 1_700_000_000.0)
        async with open_ledger(tmp_path / LEDGER, host="api.example", store_id=1003, clock=clock) as journal:
            image = SourceImage(
                path=tmp_path / "a.jpg",
                kind=ImageKind.JPEG,
                size=10,
                digest="ab" * 32,
                mtime_ns=1_600_000_000_000_000_000,
            )
            for number in (1, 2, 3):
                run_id = await journal.begin_run(str(tmp_path / "shop" / f"{number}.csv"), ["alt"])
                claim = await journal.claim(2, "hero-1", image)
                for line, status in enumerate((Status.UPLOADED, Status.FAILED, Status.PENDING), 2):
                    one = Outcome(
                        line=line,
                        tile_id=f"=tile-{line}",
                        source=f"p{line}.jpg",
                        status=status,
                        error="" if status is Status.UPLOADED else "why",
                        extra={"alt": f"run {number}"},
                    )
                    journal.row_ended(line, one, claim.upload_id if line == 2 else None)
                if number < 3:
                    await journal.end_run(Summary(run_id=run_id, store_id=1003, ledger=LEDGER))

    asyncio.run(fill())
    return tmp_path / LEDGER


def test_status_shows_images_and_runs(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees how many images have come how far, and the latest runs with their rows."""
    assert main(["status", "--ledger", str(ledger)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Store 1003 on api.example"
    assert "         1 claimed    not begun, or to be begun again" in lines
    assert re.fullmatch(
        rf"     3  2023-11-1\d \d\d:\d\d  not ended \(process {os.getpid()}\)  "
        rf"1 uploaded, 1 failed, 1 pending  .+/shop/3\.csv",
        lines[-3],
    )
    assert "  0.0 s  1 uploaded, 1 failed, 1 pending  " in lines[-1]


def test_status_for_programs(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as one JSON object with times in UTC."""
    assert main(["status", "--ledger", str(ledger), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["host"], record["store_id"]) == ("api.example", 1003)
    assert record["images"] == {"claimed": 1, "reserved": 0, "sent": 0, "confirmed": 0, "failed": 0}
    assert [run["run_id"] for run in record["runs"]] == [3, 2, 1]
    assert record["runs"][0]["ended"] is None
    assert record["runs"][1]["ended"] == "2023-11-14T22:13:20+00:00"
    assert record["runs"][1]["rows"]["failed"] == 1


def test_an_empty_ledger_has_a_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger without any run is shown as such, and has no results to export."""

    async def create() -> None:
        async with open_ledger(tmp_path / LEDGER, host="h", store_id=1, clock=Clock(now=lambda: 0.0)):
            pass

    asyncio.run(create())
    assert main(["status", "--ledger", str(LEDGER)]) == 0
    assert capsys.readouterr().out.count("none yet") == 2
    assert main(["results", "--ledger", str(LEDGER)]) == 2
    assert "knows of no run yet" in capsys.readouterr().err


def test_results_come_again_at_any_time(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without options the latest run's rows go to standard output as CSV."""
    assert main(["results", "--ledger", str(ledger)]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].endswith(",error,alt")
    assert lines[1].startswith("2,'=tile-2,p2.jpg,uploaded,")
    assert [line.rsplit(",", 1)[-1] for line in lines[1:4]] == ["run 3"] * 3
    assert lines[4:] == [""]


def test_results_are_filtered_by_run_and_status(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any run that is still kept, and any of the statuses, can be had alone."""
    words = "--run 1 --status pending --status failed --format jsonl"
    assert main(["results", "--ledger", str(ledger), *words.split()]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["status"], record["alt"]) for record in records] == [("failed", "run 1"), ("pending", "run 1")]


def test_failed_rows_come_as_a_manifest(ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed rows can be uploaded from anywhere: cells are verbatim and paths lead where they led before."""
    assert main(["results", "--ledger", str(ledger), "--status", "failed"]) == 0
    assert capsys.readouterr().out == f"tileId,path,alt\n=tile-3,{tmp_path}/shop/p3.jpg,run 3\n"


@pytest.mark.parametrize(("place", "source"), [("shop/failed.csv", "p3.jpg"), ("failed.csv", "{}/shop/p3.jpg")])
def test_a_manifest_beside_the_first_one_keeps_its_paths(
    ledger: Path, tmp_path: Path, place: str, source: str
) -> None:
    """Relative paths stay relative where they still hold."""
    (tmp_path / "shop").mkdir()
    assert main(["results", "--ledger", str(ledger), "--status", "failed", "-o", place]) == 0
    assert f"=tile-3,{source.format(tmp_path)},run 3\n" in Path(place).read_text(encoding="utf-8")


def test_a_program_s_own_name_for_a_manifest_is_no_path() -> None:
    """Where no absolute path of the manifest is known, sources are left as they are."""
    assert looking.locator("nightly sync", None)("a.jpg") == "a.jpg"


def test_results_go_to_a_file(ledger: Path) -> None:
    """The ending of the file decides the format."""
    assert main(["results", "--ledger", str(ledger), "-o", "all.jsonl"]) == 0
    assert len(Path("all.jsonl").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["results"], "which ledger?"),
        (["status"], "which ledger?"),
        (["status", "--store", "1003"], "vuega.ecwid.com-1003.sqlite3"),
        (["results", "--ledger", "ledger.sqlite3", "--run", "77"], "knows of no run 77"),
        (["results", "--ledger", "ledger.sqlite3", "-o", "x.pdf"], "must end in .csv or .jsonl"),
    ],
)
def test_what_cannot_be_looked_at_is_a_sentence(
    ledger: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing ledger, run or output place ends with exit code 2 and says what to name."""
    assert ledger.exists()
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def output_to(descriptor: int, ledger: Path) -> tuple[int, str]:
    script = (
        f"import sys\nfrom tileferry.cli import main\nsys.exit(main(['results', '--ledger', {str(ledger)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=descriptor, stderr=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stderr


def test_a_reader_that_has_seen_enough_is_no_error(ledger: Path) -> None:
    """`tileferry results | head` ends quietly."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert output_to(writing, ledger) == (0, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_a_sentence(ledger: Path) -> None:
    """Data that could not be written is never taken for complete."""
    with Path("/dev/full").open("wb") as full:
        code, told = output_to(full.fileno(), ledger)
    assert code == 2
    assert told == "tileferry: standard output cannot be written: No space left on device.\n"
