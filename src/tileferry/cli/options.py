"""The options that several verbs share, and those that only a real shop can tell the right values of.

Each is a type: a verb takes an option by naming it among its parameters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tileferry.log import LogFormat
from tileferry.settings import AUTH_URLS, Pace, Timing

PACE = Pace()
TIMING = Timing()

Store = Annotated[
    int | None,
    typer.Option("--store", metavar="ID", envvar="ECWID_STORE_ID", help="The store's id, a number."),
]
ApiUrl = Annotated[str, typer.Option("--api-url", metavar="URL", envvar="ECWID_API_URL", help="Where the API is.")]
AuthUrl = Annotated[
    str | None,
    typer.Option(
        "--auth-url",
        metavar="URL",
        envvar="ECWID_AUTH_URL",
        show_default="the API's URL",
        help="Where ECWID_SECRET_TOKEN is exchanged. Two homes are documented: " + " and ".join(AUTH_URLS) + ".",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="PATH", help="A file that holds the Instant Site token alone."),
]
LedgerPath = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="PATH",
        show_default="one per API host and store",
        help="The file that remembers what was uploaded.",
    ),
]
Rate = Annotated[int, typer.Option("--rate", metavar="N", help="API calls a minute per token.")]
BandwidthLimit = Annotated[
    str,
    typer.Option(
        "--bwlimit",
        metavar="LIMIT",
        help="Bytes a second for all uploads together, as 512K or 1.5M (B, K, M or G, powers of 1024).",
    ),
]
CountUploads = Annotated[
    bool, typer.Option("--count-uploads", help="Count each upload as an API call of --rate too.")
]
WindowMargin = Annotated[
    float,
    typer.Option(
        "--window-margin",
        metavar="SECONDS",
        help="Added to the API's minute, for calls that bunch up on the way.",
    ),
]
FirstResult = Annotated[
    float,
    typer.Option(
        "--first-result",
        metavar="SECONDS",
        show_default=f"{TIMING.first_result:g}",
        help="From an upload to the first question for its result; adapts.",
    ),
]
SlotLifetime = Annotated[
    float,
    typer.Option(
        "--slot-lifetime",
        metavar="SECONDS",
        show_default="as the host says",
        help="How old a slot of an earlier run may be to be used again.",
    ),
]
Settle = Annotated[
    float,
    typer.Option(
        "--settle",
        metavar="SECONDS",
        show_default=f"{TIMING.settle:g}",
        help="How long an image may take to show after an unclear upload, before the picture is sent again.",
    ),
]
Events = Annotated[LogFormat, typer.Option("--log-format", help="JSON: one object a line for each event.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only failures, and one line at the end.")]
