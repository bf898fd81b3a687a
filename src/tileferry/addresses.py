"""Addresses built from ids that came from a manifest, and addresses that came from outside: which to trust."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

from tileferry.errors import RejectedError
from tileferry.settings import is_loopback


def path_segment(identifier: str) -> str:
    """An opaque id as one path segment: everything that could mean something to a URL is percent-encoded."""
    encoded = quote(identifier, safe="", errors="surrogatepass")
    # "." and ".." would be resolved away, encoded or not, by some; encoding their dots is all that can be done.
    return encoded.replace(".", "%2E") if set(identifier) == {"."} else encoded


def check_upload_url(url: str, *, api_url: str) -> None:
    """Raise `RejectedError` unless a picture may be posted to this address, which came from outside.

    It must be `https://` and lie outside this machine and its network; only where the API itself is on loopback
    may the uploads be there too.
    """
    if re.search(r"[\x00-\x20\x7f-\x9f\\\\]", url):
        raise _untrusted("holds blanks or control characters")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise _untrusted("is no web address") from None
    if not host or parts.scheme not in {"https", "http"} or not _is_possible_host(host):
        raise _untrusted("is no web address")
    if parts.username is not None or parts.password is not None:
        raise _untrusted("holds a user name")
    if is_loopback(urlsplit(api_url).hostname or "") and is_loopback(host):
        return
    if parts.scheme != "https":
        raise _untrusted("is not encrypted (http://)")
    if is_loopback(host) or _is_private(host):
        raise _untrusted("lies inside this network")


def _is_possible_host(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _untrusted(why: str) -> RejectedError:
    return RejectedError(
        f"the API named an upload address that {why}; nothing was sent there", reason="upload address refused"
    )


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        # Other ways to write an address ("127.1", "0x7f000001"), which some systems resolve all the same.
        return re.fullmatch(r"[0-9.]+|0x[0-9a-fx.]+", host) is not None
