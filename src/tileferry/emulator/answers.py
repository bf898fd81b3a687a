"""What the emulator says, before anything is done to it on the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer, whole."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class CallError(Exception):
    """The call is answered with `status` and the documented `{"errorCode", "errorMessage"}`."""

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        body = {"errorCode": code, "errorMessage": message}
        self.answer = json_answer(body, status=status, headers=headers)


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """`value` as a JSON answer, in UTF-8 without escapes."""
    body = json.dumps(value, ensure_ascii=False).encode()
    return Answer(status=status, body=body, headers=headers or {})


def wrong_parameter(message: str) -> CallError:
    """The documented answer to a request that makes no sense: 400 WRONG_PARAMETER."""
    return CallError(400, "WRONG_PARAMETER", message)
