"""The parts of the command line that can be tried alone."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tileferry.cli import screen as screens
from tileferry.cli import signals
from tileferry.cli.closing import Closing, duration_text, one_line, plain_text, table_text
from tileferry.cli.crash import crash_report, on_crash, report_background
from tileferry.cli.output import Output
from tileferry.cli.screen import Taste, columns, count_rows, counting, is_live, open_screen, ticking
from tileferry.cli.signals import Interruption, loop_factory, run_interruptibly
from tileferry.errors import TransientError, UsageError
from tileferry.events import Call, DrainBegan, Event, Summary
from tileferry.log import LogFormat
from tileferry.manifest import open_manifest
from tileferry.model import Status
from tileferry.progress import LiveProgress, NoProgress, PlainProgress

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "https://upload.example/slot?signature=abc%2B"
ASYNCIO = {"TILEFERRY_LOOP": "asyncio"}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# --- output


def test_output_writes_in_order_and_waits_for_the_last_line() -> None:
    """Everything that was said is there once the output is closed."""
    stream = io.StringIO()
    output = Output(stream)
    for number in range(1000):
        output.write(f"{number}\n")
    output.close()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_output_reaches_a_real_file_in_its_encoding(tmp_path: Path) -> None:
    """What the stream's encoding lacks is escaped instead of failing."""
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as stream:
        output = Output(stream)
        output.write("tea \N{HOT BEVERAGE}\n")
        output.close()
    assert path.read_bytes() == b"tea \\u2615\n"


def test_a_full_pipe_holds_up_nobody() -> None:
    """Nobody reads: writing still returns; what is too much is left out and said, and the rest comes later."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream, os.fdopen(reading, "rb"):
        output = Output(stream, backlog=5)
        for _ in range(50):
            output.write("x" * 65536 + "\n")
        # As long as something waits in the queue, the writer is about to write, so reading cannot block for ever.
        while output._queue.qsize():
            os.read(reading, 65536)
        output.write("the last line\n")
        rest = b""
        while not rest.endswith(b"the last line\n"):
            rest += os.read(reading, 65536)
        output.close()
        assert b"lines were left out here" in rest


def test_a_reader_that_left_does_no_harm() -> None:
    """A closed pipe silences the output and raises nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        output = Output(stream)
        output.write("nobody hears this\n")
        output.write("nor this\n")
        output.close()
        output.write("nor that\n")
        assert output._gone


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_does_no_harm() -> None:
    """A log on a full disk silences the output and raises nothing."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        output = Output(stream)
        output.write("no room\n")
        output.close()
        assert output._gone


def test_a_shared_terminal_may_be_non_blocking() -> None:
    """Another program's O_NONBLOCK on the same stream costs no text."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w", encoding="utf-8") as stream, os.fdopen(reading, "rb") as reader:
        output = Output(stream)
        output.write("y" * 1_000_000)
        assert reader.read(1_000_000) == b"y" * 1_000_000
        output.close()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_no_stream_or_a_closed_one_does_no_harm(stream: io.StringIO | None) -> None:
    """A program started without standard error runs all the same."""
    if stream is not None:
        stream.close()
    output = Output(stream)
    output.write("text\n")
    output.close()
    assert output._gone


# --- signals


def test_the_first_signal_drains_and_the_second_ends() -> None:
    """Ctrl-C asks for an end in order; pressed again, it ends at once."""
    done: list[str] = []
    interruption = Interruption(lambda: done.append("cancel"))
    interruption.drain_with(lambda: done.append("drain"))
    interruption.take(signal.SIGTERM)
    interruption.take(signal.SIGINT)
    assert done == ["drain", "cancel"]
    assert interruption.exit_code == 143


def test_a_signal_before_the_run_ends_at_once() -> None:
    """Where nothing is in flight yet there is nothing to wait for."""
    done: list[str] = []
    interruption = Interruption(lambda: done.append("cancel"))
    assert interruption.exit_code == 130
    interruption.take(signal.SIGINT)
    assert done == ["cancel"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("environment", [ASYNCIO, {}])
def test_a_real_signal_drains(number: signal.Signals, environment: dict[str, str]) -> None:
    """On either event loop, a signal reaches the run, whose own exit code then counts."""

    async def work(interruption: Interruption) -> int:
        asked = asyncio.Event()
        interruption.drain_with(asked.set)
        os.kill(os.getpid(), number)
        await asked.wait()
        return interruption.exit_code

    assert run_interruptibly(work, environment) == 128 + number


def test_two_real_signals_end_at_once() -> None:
    """The second signal cancels the work wherever it stands, and the first one's code is returned."""

    async def work(interruption: Interruption) -> int:
        interruption.drain_with(lambda: os.kill(os.getpid(), signal.SIGINT))
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
        return 0

    assert run_interruptibly(work, ASYNCIO) == 143


def test_nohup_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was started to outlive its terminal does not end with it."""
    monkeypatch.setattr(
        "tileferry.cli.signals.signal.getsignal",
        lambda number: signal.SIG_IGN if number == signal.SIGHUP else None,
    )
    heard: list[int] = []

    async def work(_interruption: Interruption) -> int:
        loop = asyncio.get_running_loop()
        heard.extend(number for number in signals.STOPPING if loop.remove_signal_handler(number))
        return 0

    assert run_interruptibly(work, ASYNCIO) == 0
    assert signal.SIGHUP not in heard
    assert signal.SIGTERM in heard


def test_without_signal_handlers_ctrl_c_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop takes no signals, KeyboardInterrupt becomes exit code 130."""

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.SelectorEventLoop, "add_signal_handler", refuse)

    async def work(_interruption: Interruption) -> int:
        raise KeyboardInterrupt

    assert run_interruptibly(work, ASYNCIO) == 130


def test_a_cancellation_that_no_signal_asked_for_is_not_hidden() -> None:
    """A stray cancellation is a mistake of ours and surfaces as one."""

    async def work(_interruption: Interruption) -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_interruptibly(work, ASYNCIO)


def test_the_loop_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop where it is installed, asyncio where asked for, a sentence for anything else."""
    assert loop_factory(ASYNCIO) is None
    with pytest.raises(UsageError, match="TILEFERRY_LOOP must be asyncio or uvloop"):
        loop_factory({"TILEFERRY_LOOP": "trio"})
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory({}) is None
    with pytest.raises(UsageError, match="not installed"):
        loop_factory({"TILEFERRY_LOOP": "uvloop"})


# --- crashes


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is what the test looks at
        return exc
    raise AssertionError("nothing was raised")


def test_a_crash_names_type_and_place_but_no_foreign_message() -> None:
    """A bug report has what it needs, and a signed URL in a library's message stays out of it."""

    def inner() -> None:
        raise ValueError(SECRET)

    def outer() -> None:
        try:
            inner()
        except ValueError as exc:
            raise TransientError("the connection was lost") from exc

    def outermost() -> None:
        try:
            outer()
        except TransientError:
            raise KeyError(SECRET)  # noqa: B904 - the context is what is tried here

    report = crash_report(raised(outermost))
    assert "signature" not in report
    assert "KeyError at " in report
    assert "in outermost: this is a bug in tileferry" in report
    assert "while handling tileferry.errors.TransientError: the connection was lost" in report
    assert "caused by ValueError" in report
    assert "in inner" in report


def test_a_crash_in_a_group_tells_each_member() -> None:
    """Several failures at once are all told."""
    group = ExceptionGroup(SECRET, [ValueError(SECRET), TypeError(SECRET)])
    report = crash_report(group)
    assert report.startswith("tileferry: ExceptionGroup: this is a bug")
    assert "holding ValueError" in report
    assert "holding TypeError" in report
    assert "signature" not in report


def test_a_suppressed_context_stays_suppressed_and_circles_end() -> None:
    """`raise … from None` hides what it hides, and a chain that bites its tail ends."""

    def work() -> None:
        try:
            int(SECRET)
        except ValueError:
            raise KeyError from None

    exc = raised(work)
    assert "ValueError" not in crash_report(exc)
    exc.__cause__ = exc
    assert crash_report(exc).count("KeyError") == 2


def test_an_endless_chain_is_cut() -> None:
    """A very long chain of causes does not flood the screen."""
    exc: BaseException = ValueError()
    for _ in range(50):
        later = ValueError()
        later.__cause__ = exc
        exc = later
    report = crash_report(exc)
    assert report.endswith("  and more")
    assert report.count("caused by") == 19


def test_a_background_failure_is_told_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    """What a callback on the loop fails with is told the same careful way."""
    report_background(None, {"message": SECRET, "exception": ValueError(SECRET)})
    report_background(None, {"message": SECRET})
    assert "ValueError" in (told := capsys.readouterr().err)
    assert "signature" not in told


def test_a_crash_ends_with_70(capsys: pytest.CaptureFixture[str]) -> None:
    """The hook prints the report and asks for the documented exit code."""
    with pytest.raises(SystemExit) as caught:
        on_crash(ValueError, ValueError(SECRET), None)
    assert caught.value.code == 70
    assert "this is a bug" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_real_crash_is_told_without_secrets(where: str) -> None:
    """A mistake anywhere in the program ends up in the careful report, never in a plain traceback."""
    script = f"""
import sys, threading, tileferry.cli.app as app
def broken(*_, **__):
    raise ValueError({SECRET!r})
def verb(*_, **__):
    thread = threading.Thread(target=broken)
    thread.start()
    thread.join()
if {where!r} == "main":
    verb = broken
app._ledger_path = verb
import tileferry.cli.looking as looking
looking.show_status = lambda *_, **__: None
sys.exit(app.main(["status"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == (70 if where == "main" else 0)
    assert "tileferry: ValueError at <string>" in done.stderr
    assert "signature" not in done.stderr
    assert "Traceback" not in done.stderr


# --- the summary


def summary(**statuses: int) -> Summary:
    return Summary(
        run_id=3,
        store_id=1003,
        ledger=Path("/var/lib/my shop/ledger.sqlite3"),
        seconds=200.4,
        statuses={Status(name): number for name, number in statuses.items()},
        failures={"not an image": 2, "tile not found\x1b[2J": 1} if statuses.get("failed") else {},
        sent_bytes=3 * 1024**2,
        calls={Call.RESERVE: 1200, Call.UPLOAD: 1200, Call.RESULT: 1201},
        retries=4,
        throttled=1,
    )


def closing(**statuses: int) -> Closing:
    return Closing(
        summary=summary(**statuses),
        results=Path("out/results.csv"),
        arguments=("upload", "my shop.csv", "--store", "1003"),
        manifest="my shop.csv",
    )


def test_a_summary_says_what_happened_where_it_is_and_what_to_do() -> None:
    """Counts, failures by reason, the cost, the places, and commands that can be pasted."""
    assert plain_text(closing(uploaded=1190, unchanged=7, duplicate=1, failed=3, pending=2)) == (
        "Not all rows are in the store (1,203 rows).\n"
        "  uploaded        1,190  new in the store\n"
        "  unchanged           7  were in the store already\n"
        "  duplicate           1  share another row's image\n"
        "  failed              3\n"
        "                      2  not an image\n"
        "                      1  tile not found\\x1b[2J\n"
        "  pending             2  not finished; the next run takes them up where they stand\n"
        "  sent           3.0 MB\n"
        "  time       3 min 20 s\n"
        "  API calls       2,401  (uploads: 1,200, retries: 4, pauses asked for: 1)\n"
        "  ledger     /var/lib/my shop/ledger.sqlite3\n"
        "  results    out/results.csv\n"
        "To go on with the pending rows, run the same command again:\n"
        "  tileferry upload 'my shop.csv' --store 1003\n"
        "Once the reasons are dealt with, run the same command again, or take only the failed rows:\n"
        "  tileferry results --ledger '/var/lib/my shop/ledger.sqlite3' --status failed --output failed.csv\n"
        "  tileferry upload failed.csv --store 1003\n"
    )


def test_a_clean_summary_gives_no_advice() -> None:
    """When everything is in the store there is nothing to do and nothing else is said."""
    text = plain_text(closing(unchanged=1))
    assert text.startswith("Done: every row is in the store (1 row).\n")
    assert "tileferry upload" not in text
    assert "pending" not in text


def test_an_interrupted_summary_says_so() -> None:
    """After Ctrl-C the first line tells that nothing is lost."""
    interrupted = Summary(run_id=1, store_id=1, ledger=Path("l"), interrupted=True)
    text = plain_text(Closing(summary=interrupted))
    assert text.startswith("Interrupted; everything that was done is recorded (0 rows).\n")
    assert "results" not in text


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_table_fits_and_keeps_paths_whole(width: int) -> None:
    """The table fits the window, while paths and commands stay in one piece to be copied."""
    text = table_text(closing(uploaded=1190, failed=3), io.StringIO(), width)
    head, _, places = text.partition("  ledger")
    assert all(len(line) <= width for line in head.splitlines())
    assert "/var/lib/my shop/ledger.sqlite3\n" in places
    assert "--status failed --output failed.csv\n" in places
    assert "\x1b" not in text
    assert r"tile not found\x1b[2J" in text.replace("\n", "") or width == 60


def test_the_table_is_colored_on_a_terminal_unless_asked_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colors are for terminals, and NO_COLOR turns them off."""
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[31m" in table_text(closing(failed=3), Terminal(), 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in table_text(closing(failed=3), Terminal(), 80)


def test_the_summary_in_one_line() -> None:
    """Quiet runs end with one line that says it all."""
    assert one_line(closing(uploaded=1190, failed=3)) == "1,190 uploaded, 3 failed in 3 min 20 s"
    assert one_line(closing()) == "no rows in 3 min 20 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (61, "1 min 1 s"), (3600 * 5.5, "5 h 30 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """A time span is told in the units that a person would use."""
    assert duration_text(seconds) == text


# --- the screen


@pytest.mark.parametrize(
    ("taste", "terminal", "term", "live"),
    [
        (Taste(), True, "xterm", True),
        (Taste(), False, "xterm", False),
        (Taste(), True, "dumb", False),
        (Taste(quiet=True), True, "xterm", False),
        (Taste(form=LogFormat.JSON), True, "xterm", False),
        (Taste(form=LogFormat.TEXT, verbosity=2), True, "xterm", True),
    ],
)
def test_a_line_is_redrawn_only_where_that_works(
    monkeypatch: pytest.MonkeyPatch, taste: Taste, terminal: bool, term: str, live: bool
) -> None:
    """A live line needs a capable terminal and a person who wants it."""
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert is_live(taste, {"TERM": term}) is live


@pytest.mark.parametrize(
    ("taste", "terminal", "kind"),
    [
        (Taste(), True, LiveProgress),
        (Taste(), False, PlainProgress),
        (Taste(quiet=True), True, NoProgress),
        (Taste(form=LogFormat.JSON), False, NoProgress),
    ],
)
def test_each_taste_gets_its_progress(
    monkeypatch: pytest.MonkeyPatch, taste: Taste, terminal: bool, kind: type
) -> None:
    """What is shown while running follows the place and the options."""
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with open_screen(taste, {}) as screen:
        assert isinstance(screen.progress, kind)
        assert len(screen.listeners) == 2


@pytest.mark.parametrize(
    ("taste", "terminal", "note", "warning", "last"),
    [
        (Taste(), False, "emulator at x\n", "tileferry: beware\n", "  results    out/results.csv\n"),
        (Taste(), True, "emulator at x\n", "tileferry: beware\n", "  results   out/results.csv\n"),
        (Taste(quiet=True), True, "", "tileferry: beware\n", "1 uploaded in 3 min 20 s\n"),
    ],
)
def test_the_screen_speaks_as_wanted(
    monkeypatch: pytest.MonkeyPatch, taste: Taste, terminal: bool, note: str, warning: str, last: str
) -> None:
    """Notes, warnings and the summary appear in the form that the options ask for."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_screen(taste, {}) as screen:
        screen.note("emulator at x")
        screen.warn("beware")
        screen.conclude(closing(uploaded=1))
    assert stream.getvalue().startswith(note + warning)
    assert stream.getvalue().endswith(last)


def test_in_json_every_line_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are objects too, and notes and the summary do not get in between."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with open_screen(Taste(form=LogFormat.JSON), {}) as screen:
        screen.note("emulator at x")
        screen.log(DrainBegan(grace=10, in_flight=0))
        screen.warn("beware", 2)
        screen.conclude(closing(uploaded=1))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["event"] for record in records] == ["drain_began", "error"]
    assert records[1]["exit_code"] == 2


def test_the_width_is_asked_of_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line fits the window in which it is shown, and a sensible width where there is none."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setenv("COLUMNS", "97")
    assert columns() == 97

    class Window:
        def fileno(self) -> int:
            return 99

    monkeypatch.setattr(sys, "stderr", Window())
    monkeypatch.setattr(
        "tileferry.cli.screen.os.get_terminal_size", lambda _descriptor: os.terminal_size((123, 40))
    )
    assert columns() == 123


async def test_progress_ticks_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at without any event, and not any more once the run is over."""
    monkeypatch.setattr(screens, "TICK", 0.0)
    enough = asyncio.Event()
    ticks: list[int] = []

    class Watched(NoProgress):
        def __call__(self, event: Event) -> None: ...

        def tick(self) -> None:
            ticks.append(1)
            if len(ticks) == 3:
                enough.set()

    with ticking(Watched(lambda _text: None)):
        await enough.wait()
    seen = len(ticks)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(ticks) == seen


class Expecting(NoProgress):
    """Notes how many rows it is told to expect."""

    def __init__(self) -> None:
        super().__init__(lambda _text: None)
        self.total: int | None = None
        self.told = threading.Event()

    def expect(self, total: int) -> None:
        self.total = total
        self.told.set()


def manifest_of(folder: Path, content: str) -> Path:
    path = folder / "shop.csv"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("stopped", [False, True])
def test_rows_are_counted_unless_nobody_needs_it_any_more(tmp_path: Path, stopped: bool) -> None:
    """The total is told once it is known; a run that is over is not held up by the counting."""
    manifest = open_manifest(manifest_of(tmp_path, "tileId,path\na,b.jpg\nc,d.jpg\n"))
    progress = Expecting()
    stop = threading.Event()
    if stopped:
        stop.set()
    count_rows(manifest, progress, stop)
    assert progress.total == (None if stopped else 2)


def test_counting_leaves_a_broken_manifest_to_its_reader(tmp_path: Path) -> None:
    """A manifest that cannot be read on has no total; who uploads from it says why."""
    path = manifest_of(tmp_path, "tileId,path\na,b.jpg\n")
    manifest = open_manifest(path)
    path.unlink()
    progress = Expecting()
    count_rows(manifest, progress, threading.Event())
    assert progress.total is None


def test_a_live_run_counts_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a line is live, the total arrives while the run is going on; elsewhere nothing is counted."""
    manifest = open_manifest(manifest_of(tmp_path, "tileId,path\na,b.jpg\n"))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with open_screen(Taste(), {}) as screen:
        progress = Expecting()
        with counting(manifest, replace(screen, progress=progress)):
            progress.told.wait()
        assert progress.total == 1
        started = threading.active_count()
        with counting(manifest, replace(screen, live=False)):
            assert threading.active_count() <= started
