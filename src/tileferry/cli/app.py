"""The verbs and their options, and how errors become exit codes.

Nothing heavy is imported here: `--help` has to be there at once, so each verb imports its work when it runs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from tileferry.cli.crash import on_crash
from tileferry.cli.options import (
    PACE,
    TIMING,
    ApiUrl,
    AuthUrl,
    BandwidthLimit,
    CountUploads,
    Events,
    FirstResult,
    LedgerPath,
    Quiet,
    Rate,
    Settle,
    SlotLifetime,
    Store,
    TokenFile,
    WindowMargin,
)
from tileferry.errors import FatalError, TileferryError, UsageError
from tileferry.log import LogFormat
from tileferry.model import Status
from tileferry.results import Format
from tileferry.settings import API_URL, Pace, Settings, Timing, bytes_a_second

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: it reads as well, and the library behind the colors takes longer to load than all the rest.
    rich_markup_mode=None,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: every row is in the store. 1: some rows failed, or an outage outlasted the run. 2: usage, settings,
    manifest or ledger cannot be used. 3: the API refuses the token, the plan or the store. 4: another run
    holds the ledger. 130, 143, 129: interrupted by Ctrl-C, SIGTERM or a vanished terminal. 70: a bug in
    tileferry.
    """
    sys.excepthook = on_crash
    threading.excepthook = _on_thread_crash
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        typer.main.get_command(app).main(args=words, prog_name="tileferry", obj=tuple(words))
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except FatalError as exc:
        complain(str(exc))
        return exc.exit_code
    except TileferryError as exc:
        complain(str(exc))
        return 1
    return 0


def complain(message: str) -> None:
    """Say on standard error why nothing goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tileferry: {message}", file=sys.stderr, flush=True)  # noqa: T201 - a command speaks


@app.callback()
def _tileferry(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda wanted: _show_versions(wanted=wanted),
            help="Show the versions that a bug report needs.",
        ),
    ] = False,
) -> None:
    """Ferry images onto Ecwid Instant Site tiles, in bulk.

    Nothing is lost and nothing is uploaded twice: run the same command again at any time.

    \b
    Try it without a store:  tileferry upload shop.csv --emulator
    For real:                export ECWID_STORE_ID=1003 ECWID_TOKEN=...
                             tileferry upload shop.csv --results results.csv
    """


@app.command()
def upload(
    context: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help="CSV with a header, or JSON lines.", show_default=False),
    ],
    store: Store = None,
    api_url: ApiUrl = API_URL,
    auth_url: AuthUrl = None,
    token_file: TokenFile = None,
    emulator: Annotated[
        bool,
        typer.Option("--emulator", help="Upload to an embedded emulator, to try things out."),
    ] = False,
    emulator_folder: Annotated[
        Path | None,
        typer.Option(
            "--emulator-folder",
            metavar="PATH",
            show_default="a new temporary folder",
            help="Where the emulator, its ledger and its results live. Implies --emulator.",
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", help="Uploads at once.")
    ] = PACE.concurrency,
    rate: Rate = PACE.rate,
    bwlimit: BandwidthLimit = "off",
    ledger: LedgerPath = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", metavar="PATH", help="Write what became of each row to this .csv or .jsonl file."
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            show_default=f"{TIMING.patience:g}",
            help="How long one image may keep failing in passing.",
        ),
    ] = TIMING.patience,
    max_outage: Annotated[
        float,
        typer.Option(
            "--max-outage",
            metavar="SECONDS",
            show_default=f"{TIMING.max_outage:g}",
            help="How long the network or the API may stay away.",
        ),
    ] = TIMING.max_outage,
    stall_timeout: Annotated[
        float,
        typer.Option(
            "--stall-timeout",
            metavar="SECONDS",
            show_default=f"{TIMING.stall:g}",
            help="How long an upload may move no byte.",
        ),
    ] = TIMING.stall,
    field_name: Annotated[
        str, typer.Option("--field-name", metavar="NAME", help="The file's field in the upload form.")
    ] = "file",
    count_uploads: CountUploads = PACE.count_uploads,
    window_margin: WindowMargin = PACE.margin,
    first_result: FirstResult = TIMING.first_result,
    settle: Settle = TIMING.settle,
    slot_lifetime: SlotLifetime = TIMING.slot_lifetime,
    no_confirm: Annotated[
        bool, typer.Option("--no-confirm", help="Do not wait until the API shows each image.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Upload again what is in the store already.")] = False,
    log_format: Events = LogFormat.AUTO,
    quiet: Quiet = False,
    verbose: Annotated[
        int,
        typer.Option("-v", "--verbose", count=True, show_default=False, help="Each row; -vv: each call too."),
    ] = 0,
) -> None:
    """Upload the images that MANIFEST lists, each onto its tile.

    MANIFEST has the columns tileId and path; paths start at its folder, and further columns are carried into
    the results. What is in the store already costs no call, so the nightly run is the same command.

    The token comes from ECWID_TOKEN, from --token-file, or in exchange for the app's ECWID_SECRET_TOKEN.

    \b
    Examples:
      tileferry upload shop.csv --store 1003 --results results.csv
      tileferry upload shop.csv --emulator --emulator-folder /tmp/shop
      tileferry upload shop.csv --log-format json 2>> nightly.log

    \b
    Exit codes:
      0  every row is in the store      3  token, scope, plan or store refused
      1  some rows failed               4  another run holds the ledger
      2  usage, settings or manifest    130, 143  interrupted; all is recorded
    """
    from tileferry.cli.screen import Taste
    from tileferry.cli.uploading import Options, upload_to_emulator
    from tileferry.cli.uploading import upload as upload_now

    playing = emulator or emulator_folder is not None
    options = Options(
        api_url=api_url,
        ledger=ledger,
        confirm=not no_confirm,
        force=force,
        field_name=field_name,
        pace=Pace(
            concurrency=concurrency,
            rate=rate,
            margin=window_margin,
            count_uploads=count_uploads,
            bandwidth=bytes_a_second(bwlimit),
        ),
        timing=Timing(
            patience=patience,
            max_outage=max_outage,
            stall=stall_timeout,
            first_result=first_result,
            settle=settle,
            slot_lifetime=slot_lifetime,
        ),
    )
    taste = Taste(form=log_format, quiet=quiet, verbosity=verbose)
    words = context.obj
    if playing:
        code = upload_to_emulator(
            manifest, store, options, taste, folder=emulator_folder, results=results, arguments=words
        )
    else:
        code = upload_now(
            manifest,
            store,
            options,
            taste,
            results=results,
            token_file=token_file,
            auth_url=auth_url,
            arguments=words,
        )
    raise typer.Exit(code)


@app.command()
def confirm(
    store: Store = None,
    api_url: ApiUrl = API_URL,
    auth_url: AuthUrl = None,
    token_file: TokenFile = None,
    rate: Rate = PACE.rate,
    ledger: LedgerPath = None,
    patience: Annotated[
        float,
        typer.Option(
            "--patience", metavar="SECONDS", help="How long to go on asking for images that are not there."
        ),
    ] = 60,
    log_format: Events = LogFormat.AUTO,
    quiet: Quiet = False,
    verbose: Annotated[
        int,
        typer.Option("-v", "--verbose", count=True, show_default=False, help="Each image; -vv: each call too."),
    ] = 0,
) -> None:
    """Collect the results of images that were sent and not waited for.

    It asks the API for every image that the ledger knows as sent, or as perhaps sent when a run was cut off, and
    records those that are there. Nothing is uploaded.

    \b
    Examples:
      tileferry confirm --store 1003
      tileferry confirm --store 1003 && tileferry results --store 1003

    \b
    Exit codes:
      0  nothing is left waiting        3  token, scope, plan or store refused
      1  some images still wait         4  another run holds the ledger
    """
    from tileferry.cli.confirming import collect
    from tileferry.cli.screen import Taste

    if store is None:
        raise UsageError("which store? Give its id with --store, or set ECWID_STORE_ID.")
    settings = Settings(
        store_id=store, api_url=api_url, ledger=ledger, pace=Pace(rate=rate), timing=Timing(patience=patience)
    )
    taste = Taste(form=log_format, quiet=quiet, verbosity=verbose)
    raise typer.Exit(collect(settings, taste, auth_url=auth_url, token_file=token_file))


@app.command()
def status(
    store: Store = None,
    api_url: ApiUrl = API_URL,
    ledger: LedgerPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what the ledger holds: its images and its latest runs.

    It disturbs no run that is going on.

    \b
    Examples:
      tileferry status --store 1003
      tileferry status --ledger /tmp/shop/ledger.sqlite3 --json
    """
    from tileferry.cli.looking import show_status

    show_status(_ledger_path(store, api_url, ledger), as_json=as_json)


@app.command()
def results(
    store: Store = None,
    api_url: ApiUrl = API_URL,
    ledger: LedgerPath = None,
    statuses: Annotated[
        list[Status] | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            show_default="all",
            help="Only rows that ended so: uploaded, unchanged, duplicate, failed or pending. Repeatable.",
        ),
    ] = None,
    run: Annotated[
        int | None, typer.Option("--run", metavar="ID", show_default="the latest", help="Which run's rows.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="PATH", show_default="standard output", help="A .csv or .jsonl file."
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="The format on standard output.")] = Format.CSV,
) -> None:
    """Write the results of a run again.

    With --status failed alone, they come as a manifest of just those rows, which upload takes again.

    \b
    Examples:
      tileferry results --store 1003 > results.csv
      tileferry results --store 1003 --status failed -o failed.csv
      tileferry results --store 1003 --status uploaded --format jsonl | head
    """
    from tileferry.cli.looking import export

    export(
        _ledger_path(store, api_url, ledger),
        statuses=statuses or (),
        run_id=run,
        output=output,
        kind=form,
    )


@app.command()
def emulator(
    port: Annotated[
        int, typer.Option("--port", metavar="N", show_default="a free one", help="Where to listen.")
    ] = 0,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder",
            metavar="PATH",
            show_default="a temporary folder that goes",
            help="Keep pictures here and find them again.",
        ),
    ] = None,
    store: Annotated[
        int | None, typer.Option("--store", metavar="ID", show_default="1003", help="The store that exists.")
    ] = None,
    rate: Annotated[int, typer.Option("--rate", metavar="N", help="API calls a minute per token.")] = 600,
    fault_rate: Annotated[
        float,
        typer.Option(
            "--fault-rate", metavar="F", show_default="0", help="The share of calls that go wrong, 0 to 1."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="What chance begins with.")] = 0,
    processing: Annotated[
        tuple[float, float],
        typer.Option("--processing", metavar="MIN MAX", help="Seconds from an upload to its result."),
    ] = (0.3, 2.0),
    set_shape: Annotated[
        Literal["map", "list"], typer.Option("--set-shape", help="The shape of a result's renditions.")
    ] = "map",
    token_lifetime: Annotated[
        float | None,
        typer.Option("--token-lifetime", metavar="SECONDS", show_default="endless", help="Until a token expires."),
    ] = None,
) -> None:
    """Serve the Instant Site API on this machine until stopped.

    It is strict, and it goes wrong on demand: for trying things out and for tests. The API's address is
    printed to standard output, how to use it to standard error.

    \b
    Examples:
      tileferry emulator --port 8123
      tileferry emulator --folder /tmp/shop --fault-rate 0.2
    """
    from tileferry.cli.emulating import emulate
    from tileferry.emulator import EmulatorSettings

    try:
        settings = EmulatorSettings(
            port=port,
            folder=folder,
            store_id=store or EmulatorSettings().store_id,
            rate=rate,
            fault_rate=fault_rate,
            seed=seed,
            processing=processing,
            set_shape=set_shape,
            token_lifetime=token_lifetime,
        )
    except ValueError as exc:
        raise UsageError(f"the emulator cannot be set so: {exc}") from exc
    raise typer.Exit(emulate(settings))


def _ledger_path(store: int | None, api_url: str, ledger: Path | None) -> Path:
    """The ledger that is meant, as `upload` finds it with the same options."""
    if ledger is not None:
        return ledger
    if store is None:
        raise UsageError("which ledger? Name the store with --store or ECWID_STORE_ID, or the file with --ledger.")
    return Settings(store_id=store, api_url=api_url).ledger_path


def _show_versions(*, wanted: bool) -> None:
    if not wanted:
        return
    import platform
    from importlib import metadata

    def version(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    typer.echo(f"tileferry {version('tileferry')}")
    typer.echo(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("aiohttp", "uvloop"):
        typer.echo(f"{name} {version(name)}")
    raise typer.Exit


def _on_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None:
        from tileferry.cli.crash import report_background

        report_background(None, {"exception": crash.exc_value})
