"""The upload host: what it takes, and all that it does not."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from emulator.customer import BOUNDARY, GIF, PNG, Customer, FakeClock, form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Enter = Callable[..., Awaitable[Customer]]


async def slot_url(customer: Customer) -> str:
    """The address of a new slot."""
    return str((await customer.reserve()).json["url"])


async def test_a_picture_is_stored_as_it_was_sent(customer: Customer) -> None:
    """The truth has the very digest, size, kind and name of the file."""
    url = await slot_url(customer)
    name = "d\u00e9j\u00e0 %22vu%22.png"
    assert (await customer.post(url, form(PNG, media_type="image/png", filename=name))).status == 200
    (image,) = customer.emulator.truth().images
    assert (image.digest, image.size) == (hashlib.sha256(PNG).hexdigest(), len(PNG))
    assert (image.kind, image.filename, image.posted) == ("image/png", 'd\u00e9j\u00e0 "vu".png', 1)


async def test_a_large_picture_arrives_whole(customer: Customer) -> None:
    """A body that goes to disk in several pieces has the right digest and comes back from the bucket."""
    content = GIF + bytes(range(256)) * 10_000
    image_id = await customer.store(content)
    assert customer.emulator.truth().images[0].digest == hashlib.sha256(content).hexdigest()
    told = (await customer.result(image_id)).json
    bucket = (await customer.buckets()).json["urls"][told["bucket"]]
    assert (await customer.send("GET", f"{bucket}/{told['set']['original']['url']}")).body == content


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form().replace(BOUNDARY.encode(), b"other"), 400),
        (form()[: -len(f"\r\n--{BOUNDARY}--\r\n")], 400),
        (form()[:-4] + b"\r\n", 400),
        (form().replace(b"\r\n", b"\n"), 400),
        (form() + b"more", 400),
        (form()[:-4] + b"\r\n" + form(), 400),
        (form().replace(b'; filename="a.gif"', b""), 400),
        (form().replace(b"Content-Type: image/gif\r\n", b""), 400),
        (form(media_type="image/jpg"), 400),
        (form(name="image"), 400),
        (form(b""), 400),
        (b"", 400),
        (form(b"plainly no picture at all, whatever it is called"), 422),
        (form(PNG), 422),
        (form(GIF, media_type="image/webp"), 422),
    ],
)
async def test_a_body_that_is_wrong_is_refused_and_not_stored(
    customer: Customer, body: bytes, status: int
) -> None:
    """Malformed forms are 400, what is no picture or not the announced one is 422; nothing is kept."""
    reply = await customer.post(await slot_url(customer), body)
    assert reply.status == status
    truth = customer.emulator.truth()
    assert (truth.images, truth.refused_posts) == ((), 1)
    assert not list((customer.emulator.folder / "incoming").iterdir())


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/octet-stream", 415),
        ("multipart/mixed; boundary=frontier", 400),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary="frontier"', 200),
    ],
)
async def test_the_content_type_has_to_be_a_form_with_a_boundary(
    customer: Customer, content_type: str, status: int
) -> None:
    """Another type is 415, a form without a usable boundary 400."""
    reply = await customer.post(await slot_url(customer), **{"Content-Type": content_type})
    assert reply.status == status


async def test_a_chunked_body_is_refused(customer: Customer) -> None:
    """An upload without Content-Length is answered with 411, as upload hosts commonly do."""

    async def pieces() -> AsyncIterator[bytes]:
        yield form()

    url = URL(await slot_url(customer), encoded=True)
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with customer.session.post(url, data=pieces(), headers=headers) as response:
        assert response.status == 411


async def test_a_compressed_body_is_refused(customer: Customer) -> None:
    """A Content-Encoding is not undone in silence."""
    reply = await customer.post(await slot_url(customer), **{"Content-Encoding": "gzip"})
    assert reply.status == 415


@pytest.mark.parametrize("size", [1001, 500_000])
async def test_too_large_a_file_is_refused(enter: Enter, size: int) -> None:
    """A file over the limit is INCORRECT_IMAGE_SIZE, whether its length or its bytes give it away."""
    customer = await enter(max_image_bytes=1000)
    reply = await customer.post(await slot_url(customer), form(GIF.ljust(size, b"\0")))
    assert reply.code == (400, "INCORRECT_IMAGE_SIZE")
    assert (await customer.post(await slot_url(customer), form(GIF.ljust(1000, b"\0")))).status == 200


async def test_too_large_a_body_is_refused_before_it_comes(customer: Customer) -> None:
    """The announced length is enough; nobody has to send 20 MB to hear that it was too much."""
    parts = URL(await slot_url(customer), encoded=True)
    head = (
        f"POST {parts.raw_path_qs} HTTP/1.1\r\nHost: {parts.authority}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 21000000\r\n\r\n"
    )
    reader, writer = await customer.raw(head.encode())
    assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
    writer.close()
    await writer.wait_closed()


async def test_the_signature_counts_byte_for_byte(customer: Customer) -> None:
    """An upload address whose query was decoded and encoded again does not match any more."""
    url = await slot_url(customer)
    assert {"%2B", "%2F", "%3D", "%2f", "%7E"} <= {url[at : at + 3] for at in range(len(url))}
    for rewritten in (
        str(URL(url)),
        url.replace("%2f", "%2F"),
        url.partition("?")[0],
        url.replace("+", "%20"),
    ):
        reply = await customer.post(rewritten)
        assert reply.code == (403, "SIGNATURE_DOES_NOT_MATCH")
    assert (await customer.post(url)).status == 200


async def test_an_unknown_slot_and_another_method_are_refused(customer: Customer) -> None:
    """404 for a slot that was never reserved, 405 for anything but POST."""
    assert (await customer.post(f"{customer.emulator.base_url}/upload/1-abc?x")).status == 404
    assert (await customer.send("GET", await slot_url(customer))).status == 405


async def test_a_token_at_the_upload_host_is_a_leak(customer: Customer) -> None:
    """A token sent to the upload host or the bucket, in whatever place, is refused and remembered."""
    url = await slot_url(customer)
    assert (await customer.post(url, Authorization="Bearer emulator-token")).status == 400
    assert (await customer.post(f"{url}&token=emulator-token")).status == 400
    bucket = (await customer.buckets()).json["urls"]["emu-1"]
    headers = {"Authorization": "Bearer emulator-token"}
    assert (await customer.send("GET", f"{bucket}/x/y", headers=headers)).status == 400
    truth = customer.emulator.truth()
    assert (truth.token_leaks, truth.images) == (3, ())


async def test_a_second_body_for_a_slot_is_refused(customer: Customer) -> None:
    """By default a slot takes one picture; a complete second body is 409 and counts as a repost."""
    url = await slot_url(customer)
    assert (await customer.post(url)).status == 200
    assert (await customer.post(url, form(PNG, media_type="image/png"))).status == 409
    truth = customer.emulator.truth()
    assert (truth.reposts, truth.images[0].posted, truth.images[0].size) == (1, 2, len(GIF))


async def test_a_second_body_can_replace_the_first(enter: Enter) -> None:
    """With `slot_posts="many"` the slot takes it, under the same image id."""
    customer = await enter(slot_posts="many")
    url = await slot_url(customer)
    assert (await customer.post(url)).status == 200
    assert (await customer.post(url, form(PNG, media_type="image/png"))).status == 200
    (image,) = customer.emulator.truth().images
    assert (image.kind, image.posted, customer.emulator.truth().reposts) == ("image/png", 2, 1)


async def test_a_slot_can_expire(enter: Enter, clock: FakeClock) -> None:
    """After its lifetime a slot answers 410."""
    customer = await enter(slot_lifetime=60)
    url = await slot_url(customer)
    clock.now += 60
    assert (await customer.post(url)).status == 410


async def test_a_client_that_waits_for_leave_to_send_gets_it(customer: Customer) -> None:
    """`Expect: 100-continue` is answered before the body comes."""
    parts = URL(await slot_url(customer), encoded=True)
    head = (
        f"POST {parts.raw_path_qs} HTTP/1.1\r\nHost: {parts.authority}\r\nExpect: 100-continue\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(form())}\r\n\r\n"
    )
    reader, writer = await customer.raw(head.encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    await reader.readline()
    writer.write(form())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_breaks_off_stores_nothing(customer: Customer) -> None:
    """When the client leaves in the middle of its body there is no picture and no answer."""
    parts = URL(await slot_url(customer), encoded=True)
    head = (
        f"POST {parts.raw_path_qs} HTTP/1.1\r\nHost: {parts.authority}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 9999\r\n\r\n"
    )
    _, writer = await customer.raw(head.encode() + form()[:50])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        await customer.emulator.until("upload", 1)
    assert customer.emulator.calls()[-1].status == 0
    assert customer.emulator.truth().images == ()


async def test_the_field_can_have_another_name(enter: Enter) -> None:
    """The field's name is a setting, since only one client was ever observed."""
    customer = await enter(field_name="image")
    assert (await customer.post(await slot_url(customer), form())).status == 400
    assert (await customer.post(await slot_url(customer), form(name="image"))).status == 200


async def test_pictures_lie_in_the_folder(enter: Enter, tmp_path: Path) -> None:
    """With a folder the stored bytes can be looked at there."""
    customer = await enter(folder=tmp_path / "shop")
    await customer.store()
    (picture,) = (tmp_path / "shop" / "pictures").iterdir()
    assert picture.read_bytes() == GIF
