"""Everything that can go wrong, drawn as a tree.

* TileferryError
  + TransientError      may succeed when tried again: reset, timeout, 408, 429, 5xx, a garbled answer
    - ThrottledError    the other side asks for a pause (429, or 503 with Retry-After)
  + RejectedError       this image or this tile is refused; the others go on
    - ImageError        the file itself is unfit, found before any call
      · ImageChangedError   the file is no longer what it was when it was examined
    - SlotRefusedError  this upload slot is gone or used up; the image may still be fine
    - PatienceError     it failed in passing for too long; the next run asks first and goes on
  + FatalError          nothing can go on: the run stops at once and is resumable    (exit 3)
    - TokenRefusedError the token is wrong, expired for good, or lacks the scope     (exit 3)
    - OutageError       the network or the API stayed away longer than allowed       (exit 1)
    - UsageError        settings or manifest cannot be used                          (exit 2)
      · ManifestError
    - LedgerError       the ledger cannot be read or written                         (exit 2)
      · LedgerBusyError another run holds the ledger                                 (exit 4)

A worker returns an outcome for the first two kinds and raises only the third. Messages are sentences for
a person: what is wrong, where, and what to do. They never hold a token or an upload URL.
"""

from __future__ import annotations

import enum
import unicodedata

LONGEST_PRINTED = 300
"""Characters; longer texts from outside lose their middle when they are shown."""

_TELLTALE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Delivery(enum.Enum):
    """How much of an upload's body may have reached the other side when the attempt failed."""

    NOTHING = "nothing"
    """No byte left this machine, or the server said clearly that it took nothing."""
    PART = "part"
    """Some bytes left but never all of them, so nothing whole can be stored there."""
    WHOLE = "whole"
    """Every byte may have arrived: the image may exist although nobody said so."""


class TileferryError(Exception):
    """The root of all errors that tileferry raises on purpose."""


class TransientError(TileferryError):
    """The attempt failed in a way that another attempt may cure.

    `delivery` matters for uploads only. `wall` marks failures that speak against the host (from many of them
    an outage is recognized), `unreachable` those where the host was not even reached. `paced` says that whoever
    keeps the next try waits by itself, so that nobody needs to wait before it.
    """

    def __init__(
        self,
        message: str,
        *,
        delivery: Delivery = Delivery.NOTHING,
        wall: bool = True,
        unreachable: bool = False,
    ) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.wall = wall
        self.unreachable = unreachable
        self.paced = False


class ThrottledError(TransientError):
    """The other side asks for a pause of `pause` seconds."""

    def __init__(self, message: str, *, pause: float, delivery: Delivery = Delivery.NOTHING) -> None:
        super().__init__(message, delivery=delivery, wall=False)
        self.pause = pause
        self.paced = True


class RejectedError(TileferryError):
    """This image or this tile is refused for good; trying again would be refused again.

    `reason` is a short label under which alike failures are counted, such as "tile not found".
    """

    def __init__(self, message: str, *, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class ImageError(RejectedError):
    """The file cannot be uploaded as it is: missing, unreadable, empty, not an image, too large."""


class ImageChangedError(ImageError):
    """The file changed, or vanished, between two looks at it; what would be sent is not what was claimed."""


class SlotRefusedError(RejectedError):
    """The upload host does not take (or no longer takes) a body for this slot."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, reason="upload slot refused")
        self.status = status


class PatienceError(RejectedError):
    """This image kept failing in passing for longer than allowed; the next run takes it up where it stands."""


class FatalError(TileferryError):
    """The run cannot go on. What is recorded stays recorded; the same command resumes."""

    exit_code = 3


class TokenRefusedError(FatalError):
    """The API does not accept the token, or the token lacks the scope for this call.

    `curable` tells whether another token of the same app could be accepted.
    """

    def __init__(self, message: str, *, curable: bool = True) -> None:
        super().__init__(message)
        self.curable = curable


class OutageError(FatalError):
    """The network, the API or the upload host stayed out of reach for longer than allowed."""

    exit_code = 1


class UsageError(FatalError):
    """What was asked for cannot be done: an option, a setting or a file makes no sense."""

    exit_code = 2


class ManifestError(UsageError):
    """The manifest as a whole cannot be read; single bad rows are no error but failed rows."""


class LedgerError(FatalError):
    """The ledger cannot be opened, read or written; nothing is sent that cannot be recorded."""

    exit_code = 2


class LedgerBusyError(LedgerError):
    """Another run holds this ledger."""

    exit_code = 4


def printable(text: str) -> str:
    """`text` from outside, fit for a terminal, a log or a message.

    Control characters, direction overrides, invisible characters and lone surrogates are escaped, and what is
    very long loses its middle.
    """
    if len(text) > LONGEST_PRINTED:
        text = f"{text[: LONGEST_PRINTED * 2 // 3]} … {text[-LONGEST_PRINTED // 3 :]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _TELLTALE
        else character
        for character in text
    )
