"""What is said when tileferry itself is wrong: where, and of what type, but no message that is not ours.

A foreign library's message may hold a signed upload URL or a header with the token, so only the frames and
the types are printed. They are what a bug report needs.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import TYPE_CHECKING

from tileferry.errors import TileferryError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

EXIT_CODE = 70
"""A mistake inside the program (EX_SOFTWARE of sysexits.h)."""

_CHAIN = 20
"""How many exceptions of one chain are told."""


def crash_report(exc: BaseException) -> str:
    """Lines that name the place and the type of `exc` and of whatever led to it."""
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" at {_place(frames[-1])}" if frames else ""
    lines = [
        f"tileferry: {_name(exc)}{place}: this is a bug in tileferry. What is recorded stays recorded, and "
        "the same command resumes. Please report the lines below; they hold no secrets."
    ]
    for number, (link, relation) in enumerate(_chain(exc)):
        if number == _CHAIN:
            lines.append("  and more")
            break
        message = f": {printable(str(link))}" if isinstance(link, TileferryError) else ""
        lines.append(f"  {relation}{_name(link)}{message}")
        lines += [f"    {_place(frame)}" for frame in traceback.extract_tb(link.__traceback__)]
    return "\n".join(lines)


def on_crash(_kind: type[BaseException], exc: BaseException, _trace: TracebackType | None) -> None:
    """The program's `sys.excepthook`: say what there is to say and end with `EXIT_CODE`."""
    _print(crash_report(exc))
    # The interpreter takes this for the exit code, as it does anywhere else.
    raise SystemExit(EXIT_CODE)


def report_background(_loop: object, context: dict[str, object]) -> None:
    """The event loop's exception handler: its own would log the messages and arguments of foreign calls."""
    exc = context.get("exception")
    if isinstance(exc, BaseException):
        _print(crash_report(exc))


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - nothing else is left to say it with


def _chain(exc: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The exception and whatever it grew out of, each with how it relates to the one before; each once."""
    seen: set[int] = set()
    todo: list[tuple[BaseException, str]] = [(exc, "")]
    while todo:
        link, relation = todo.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link, relation
        if isinstance(link, BaseExceptionGroup):
            todo += [(inner, "holding ") for inner in link.exceptions]
        if link.__cause__ is not None:
            todo.append((link.__cause__, "caused by "))
        elif link.__context__ is not None and not link.__suppress_context__:
            todo.append((link.__context__, "while handling "))


def _name(exc: BaseException) -> str:
    kind = type(exc)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _place(frame: traceback.FrameSummary) -> str:
    return f"{printable(frame.filename)}, line {frame.lineno}, in {frame.name}"
