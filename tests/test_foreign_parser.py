"""Multipart bodies read by parsers that are not Python's: what arrives there is what was on disk.

Skipped where Node (18 or newer, whose own `Response.formData` parses) or PHP is not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.pictures import make
from tileferry import Timing
from tileferry.images import CHUNK_BYTES, examine, read_chunks
from tileferry.model import ImageKind
from tileferry.multipart import Body, encoded_filename
from tileferry.wire import open_session, post_body

NODE = """
const http = require('http'), crypto = require('crypto');
http.createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const headers = {'content-type': request.headers['content-type']};
  const form = await new Response(Buffer.concat(parts), {headers}).formData();
  const fields = [...form.keys()], file = form.get(fields[0]);
  const bytes = Buffer.from(await file.arrayBuffer());
  response.end(JSON.stringify({fields, name: file.name, type: file.type, size: bytes.length,
    digest: crypto.createHash('sha256').update(bytes).digest('hex')}));
}).listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
"""

PHP = """<?php
$file = reset($_FILES);
echo json_encode(['fields' => array_keys($_FILES), 'name' => $file['name'], 'type' => $file['type'],
  'size' => $file['size'], 'digest' => hash_file('sha256', $file['tmp_name'])]);
"""

NAMES = (
    "teapot.jpg",
    'the "good" one.png',
    "two\nlines\r\nhere.gif",
    "Grüße aus Köln.jpg",
    "日本のお茶.webp",
    "чай & сахар; name=x.png",
    "🍵.gif",
    "per%22cent%0A.jpg",
    f"{'long ' * 50}name.jpeg",
)


@dataclass(frozen=True, slots=True)
class Parser:
    """A foreign parser behind an address, and whether it turns `%22` and its kin back into what they stand for."""

    url: str
    decodes: bool


async def _listening(port: int) -> None:
    for _ in range(1000):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("the parser's server did not start")


@contextlib.asynccontextmanager
async def open_parser(language: str, folder: Path) -> AsyncIterator[Parser]:
    """A server on loopback that parses uploads in `language` and tells what it saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "server.cjs").write_text(NODE)
    (folder / "index.php").write_text(PHP)
    command = {
        "node": ("node", str(folder / "server.cjs"), str(port)),
        "php": (
            *("php", "-d", "upload_max_filesize=64M", "-d", "post_max_size=64M"),
            *("-S", f"127.0.0.1:{port}", "-t", str(folder)),
        ),
    }[language]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _listening(port)
        yield Parser(f"http://127.0.0.1:{port}/index.php", decodes=language == "node")
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("language", ["node", "php"])
async def test_bytes_and_names_arrive_intact(language: str, tmp_path: Path) -> None:
    """Every picture arrives byte for byte, small and streamed, with its type, its field and its name.

    A name arrives as browsers would have sent it; parsers that follow the HTML standard give it back as it was.
    """
    if shutil.which(language) is None:
        pytest.skip(f"{language} is not installed")
    kinds = list(ImageKind)
    async with (
        open_parser(language, tmp_path) as parser,
        open_session(timing=Timing(), connections=4, user_agent="test") as session,
    ):
        for number, name in enumerate(NAMES):
            path = tmp_path / "picture"
            kind = kinds[number % len(kinds)]
            path.write_bytes(make(kind, seed=number, approx_bytes=3 * CHUNK_BYTES if number % 2 else None))
            examined = examine(path)
            body = Body(
                field_name="file",
                filename=name,
                kind=kind,
                size=examined.image.size,
                content=examined.content or read_chunks(examined.image),
            )
            answer = await post_body(session, parser.url, body, stall=10, total=30)
            seen = json.loads(answer.body)
            sent = encoded_filename(name)
            if parser.decodes:
                sent = sent.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
            assert seen == {
                "fields": ["file"],
                "name": sent,
                "type": kind.value,
                "size": path.stat().st_size,
                "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
