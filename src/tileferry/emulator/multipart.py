"""A strict reader of multipart/form-data with exactly one file part, fed piece by piece.

Written from RFC 7578, RFC 2046 and the WHATWG form rules, stricter than any of them where a mistake would
hide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 16 * 1024
"""Longest head of a part, its filename included (an arbitrary bound)."""

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"((?:[^"\\\r\n]|\\.)*)"'
_MEDIA_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_NAME})=(?:({_NAME})|{_QUOTED})")
_FORM_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_NAME})={_QUOTED}")
_HEADER = re.compile(rf"({_NAME}):[ \t]*(.*?)[ \t]*")


class MultipartError(ValueError):
    """The body is not what it has to be; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartHead:
    """What the file part says of itself."""

    name: str
    filename: str
    media_type: str


def boundary_of(content_type: str) -> bytes:
    """The boundary that a form upload's Content-Type names. Raises `MultipartError` if it names none."""
    media_type, semicolon, rest = content_type.partition(";")
    if media_type.strip().lower() != "multipart/form-data":
        raise MultipartError("The Content-Type is not multipart/form-data.")
    parameters = _parameters(_MEDIA_PARAMETER, semicolon + rest, "Content-Type")
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise MultipartError("The Content-Type names no usable boundary.")
    return boundary.encode("ascii")


class FileReader:
    """Takes the body as it comes and gives back the file's bytes; `head` is there as soon as it is known.

    Every method raises `MultipartError` as soon as the body cannot be right any more. Holds no more than the
    part's head or a delimiter's length beyond what it is fed.
    """

    def __init__(self, boundary: bytes, field_name: str) -> None:
        self.head: PartHead | None = None
        self._field_name = field_name
        self._opening = b"--" + boundary + b"\r\n"
        self._delimiter = b"\r\n--" + boundary
        self._rest = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """The file's bytes that have become certain with `data`."""
        self._rest += data
        if self.head is None and not self._read_head():
            return b""
        if self._ended:
            self._check_end()
            return b""
        end = self._rest.find(self._delimiter)
        self._ended = end >= 0
        # What could be the delimiter's beginning is kept back until more is known.
        certain = end if self._ended else max(0, len(self._rest) - len(self._delimiter) + 1)
        content = bytes(self._rest[:certain])
        del self._rest[:certain]
        if self._ended:
            self._check_end()
        return content

    def close(self) -> PartHead:
        """The body is over: the part's head if it was complete and nothing is missing or left over."""
        if self.head is None:
            raise MultipartError("The body ends before the file part begins.")
        if bytes(self._rest) not in {self._delimiter + b"--", self._delimiter + b"--\r\n"}:
            raise MultipartError("The body ends without its final boundary.")
        return self.head

    def _check_end(self) -> None:
        """Whether what follows the file can still become the final boundary and nothing else."""
        final, another = self._delimiter + b"--\r\n", self._delimiter + b"\r\n"
        if self._rest.startswith(another):
            raise MultipartError("The body holds more than one part.")
        if not final.startswith(self._rest) and not another.startswith(self._rest):
            raise MultipartError("Something other than the final boundary follows the file.")

    def _read_head(self) -> bool:
        if not self._opening.startswith(self._rest[: len(self._opening)]):
            raise MultipartError("The body does not begin with its boundary and CRLF.")
        end = self._rest.find(b"\r\n\r\n")
        if end < 0 and len(self._rest) <= MAX_HEAD_BYTES:
            return False
        if not 0 <= end <= MAX_HEAD_BYTES:
            raise MultipartError("The part's head has no end, or none within reason.")
        head = bytes(self._rest[len(self._opening) : end])
        del self._rest[: end + 4]
        self.head = _part_head(head, self._field_name)
        return True


def _part_head(head: bytes, field_name: str) -> PartHead:
    try:
        text = head.decode()
    except UnicodeDecodeError:
        raise MultipartError("The part's head is not UTF-8.") from None
    headers: dict[str, str] = {}
    for line in text.split("\r\n"):
        match = _HEADER.fullmatch(line)
        if match is None or match[1].lower() in headers:
            raise MultipartError("The part's head holds a line that is no header, or a header twice.")
        headers[match[1].lower()] = match[2]
    kind, semicolon, rest = headers.get("content-disposition", "").partition(";")
    if kind.strip() != "form-data":
        raise MultipartError("The part's Content-Disposition is not form-data.")
    parameters = _parameters(_FORM_PARAMETER, semicolon + rest, "Content-Disposition")
    if "filename*" in parameters:
        raise MultipartError("The part has a filename*, which RFC 7578 forbids in forms.")
    if parameters.get("name") != field_name:
        raise MultipartError(f"The part's name is not {field_name!r}.")
    if not parameters.get("filename"):
        raise MultipartError("The part has no filename.")
    if not headers.get("content-type"):
        raise MultipartError("The part has no Content-Type.")
    return PartHead(
        name=field_name,
        filename=_unescaped(parameters["filename"]),
        media_type=headers["content-type"].lower(),
    )


def _parameters(pattern: re.Pattern[str], text: str, header: str) -> dict[str, str]:
    """The parameters of a header, raw. Raises `MultipartError` for anything between or after them."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None or match[1].lower() in found:
            raise MultipartError(f"The {header} cannot be understood.")
        found[match[1].lower()] = next(group for group in match.groups()[1:] if group is not None)
        at = match.end()
    return found


def _unescaped(filename: str) -> str:
    r"""The filename that was meant: browsers write %22, %0D and %0A, older clients \" and \\."""
    plain = re.sub(r'\\(["\\])', r"\1", filename)
    return re.sub("%22|%0D|%0A", lambda match: {"%22": '"', "%0D": "\r", "%0A": "\n"}[match[0]], plain)
