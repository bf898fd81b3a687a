"""Which call meets which fault."""

from __future__ import annotations

import pytest

from tileferry.emulator.calls import CallKind
from tileferry.emulator.control import plan_from_json
from tileferry.emulator.faults import UPLOAD_ONLY, Fault, FaultKind, FaultPlan

A, B, C = (Fault(FaultKind.STATUS, status=status) for status in (501, 502, 503))


def plan(rate: float = 0.0, kinds: tuple[FaultKind, ...] = tuple(FaultKind), seed: int = 0) -> FaultPlan:
    """A plan with nothing scripted."""
    return FaultPlan(rate=rate, kinds=kinds, seed=seed)


def drawn(plan: FaultPlan, kinds: str) -> list[Fault | None]:
    """What calls meet; each letter is one (u: upload, r: reserve)."""
    names = {"u": CallKind.UPLOAD, "r": CallKind.RESERVE}
    return [plan.draw(names[letter]) for letter in kinds]


def test_the_nth_call_of_a_kind_meets_its_fault() -> None:
    """Calls of other kinds do not count, and the fault comes once."""
    it = plan()
    it.script("upload", 2, A)
    assert drawn(it, "urruu") == [None, None, None, A, None]


def test_any_counts_all_kinds() -> None:
    """A script for "any" counts every call."""
    it = plan()
    it.script("any", 3, A)
    assert drawn(it, "uruu") == [None, None, A, None]


def test_the_next_calls_meet_theirs_in_order() -> None:
    """A queue is worked off from now on; more can be added."""
    it = plan()
    assert drawn(it, "u") == [None]
    it.script_next("upload", A, B)
    it.script_next("any", C)
    assert drawn(it, "ururu") == [A, C, B, None, None]


def test_an_outage_lasts_until_it_is_taken_back() -> None:
    """What is always so gives way to what is scripted, and ends with None."""
    it = plan()
    it.script_always("upload", A)
    it.script("upload", 2, B)
    assert drawn(it, "uuur") == [A, B, A, None]
    it.script_always("upload", None)
    it.script_always("any", C)
    assert drawn(it, "ur") == [C, C]


def test_chance_is_the_same_for_the_same_seed() -> None:
    """The n-th call of a kind meets the same whatever comes between; another seed is another chance."""
    alone = drawn(plan(rate=0.3, seed=5), "u" * 200)
    it = plan(rate=0.3, seed=5)
    mixed = drawn(it, "ur" * 200)[::2]
    assert alone == mixed
    assert 30 <= sum(fault is not None for fault in alone) <= 90
    assert drawn(plan(rate=0.3, seed=6), "u" * 200) != alone
    plain = plan(rate=0.3, seed=5, kinds=(FaultKind.HANG,))
    assert drawn(plain, "u" * 200) != drawn(plain, "r" * 200)


def test_chance_brings_every_kind_that_fits_the_call() -> None:
    """Uploads meet every kind of fault, other calls those that need no body and no slot."""
    uploads = {fault.kind for fault in drawn(plan(rate=1), "u" * 500) if fault}
    others = {fault.kind for fault in drawn(plan(rate=1), "r" * 500) if fault}
    assert uploads == set(FaultKind)
    assert others == set(FaultKind) - UPLOAD_ONLY
    assert drawn(plan(rate=1, kinds=(FaultKind.STALL,)), "r") == [None]


@pytest.mark.parametrize(
    ("call", "n", "message"),
    [("uplaod", 1, "There is no call 'uplaod'"), ("control", 1, "no call"), ("upload", 0, "are over")],
)
def test_a_script_for_a_call_that_cannot_be_is_refused(call: str, n: int, message: str) -> None:
    """A misspelt kind and a call that is over are mistakes of the test's author, told at once."""
    with pytest.raises(ValueError, match=message):
        plan().script(call, n, A)


@pytest.mark.parametrize("details", [{"status": 99}, {"seconds": -1.0}, {"seconds": float("inf")}])
def test_a_fault_that_cannot_be_is_refused(details: dict[str, float]) -> None:
    """Details are checked at birth."""
    with pytest.raises(ValueError, match="A fault's"):
        Fault(FaultKind.STATUS, **details)


def test_a_plan_can_be_given_as_json() -> None:
    """Scripts, queues, outages and chance in one object."""
    it = plan()
    plan_from_json(
        it,
        b"""{"script": [{"call": "upload", "n": 2, "fault": {"kind": "body", "status": 299, "body": "hi",
            "headers": {"X-A": "b"}, "seconds": 2, "act": true}}],
            "next": [{"call": "upload", "faults": [{"kind": "hang"}]}],
            "always": [{"call": "upload", "fault": {"kind": "reset_after"}}, {"call": "any", "fault": null}],
            "chance": {"rate": 1, "kinds": ["html"]}}""",
    )
    body = Fault(FaultKind.BODY, status=299, headers={"X-A": "b"}, body=b"hi", seconds=2, act=True)
    assert drawn(it, "uuur") == [
        Fault(FaultKind.HANG),
        body,
        Fault(FaultKind.RESET_AFTER),
        Fault(FaultKind.HTML),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[]", "object"),
        ('{"sript": []}', "sript is unknown"),
        ('{"script": {}}', "list"),
        ('{"script": [{"call": 1, "n": 1, "fault": {"kind": "html"}}]}', "call must be a text"),
        ('{"script": [{"call": "upload", "n": "1", "fault": {"kind": "html"}}]}', "n must be a whole number"),
        ('{"script": [{"call": "upload", "n": 1, "fault": {"kind": "flood"}}]}', "flood"),
        ('{"next": [{"call": "upload", "faults": {}}]}', "faults must be a list"),
        ('{"chance": {"rate": "often"}}', "rate must be a number"),
        ('{"chance": {"rate": 2}}', "expected 0 to 1"),
        ('{"chance": {"rate": 0.5, "kinds": "html"}}', "kinds must be a list"),
    ],
)
def test_json_that_means_nothing_is_refused(text: str, message: str) -> None:
    """Each mistake is told in words."""
    with pytest.raises(ValueError, match=message):
        plan_from_json(plan(), text.encode())
