"""The house itself: which way imports point, where each library lives, and which names are the front door."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tileferry

SOURCE = Path(tileferry.__file__).parent

FLOORS: list[set[str]] = [
    {"cli"},
    {"fleet", "confirm"},
    {"run"},
    {"pool", "results", "progress", "log", "history", "tally"},
    {"ferry"},
    {"transfer"},
    {"api"},
    {"auth"},
    {"answers"},
    {"wire"},
    {"addresses", "ledger", "images", "outage", "budget", "retry", "delay"},
    {"journal"},
    {"schema"},
    {"multipart", "manifest", "clock", "settings", "events"},
    {"bandwidth"},
    {"model"},
    {"errors"},
]
"""From the roof to the ground: a room may use those on lower floors only."""

DOORS = {"__init__", "__main__"}
"""Not rooms but ways into the house: they may lead to any room, and no room may use them."""

HOMES: dict[str, set[str]] = {
    "aiohttp": {"wire", "api", "emulator"},
    "yarl": {"wire", "emulator"},
    "aiofiles": {"images", "multipart"},
    "filelock": {"journal"},
    "msgspec": {"answers", "api", "ledger", "history", "manifest", "log", "results", "emulator"},
    "platformdirs": {"settings"},
    "rich": {"cli", "progress"},
    "sqlite3": {"journal", "schema", "ledger", "history"},
    "tenacity": {"retry"},
    "typer": {"cli"},
    "uvloop": {"cli"},
}
"""Where each library may be imported; one that is not named here may be imported nowhere."""

NAMES = [
    "BadRow",
    "Berth",
    "Credentials",
    "Event",
    "FatalError",
    "Fleet",
    "LedgerBusyError",
    "LedgerError",
    "Listener",
    "Manifest",
    "ManifestError",
    "OutageError",
    "Outcome",
    "Pace",
    "Row",
    "Run",
    "Settings",
    "Status",
    "Summary",
    "TileferryError",
    "Timing",
    "TokenRefusedError",
    "UsageError",
    "open_fleet",
    "open_manifest",
    "open_run",
]
"""The library's public names: programs depend on each, so none comes or goes unnoticed."""


def module_name(path: Path) -> str:
    """The dotted name of a module, as it is imported."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The dotted names of all modules that a module imports, wherever in it and for whatever purpose.

    From a package, only what is a module of its own counts as such: `from tileferry import images` means
    `tileferry.images`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} line {node.lineno}: a relative import hides where it points"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {module}
    return found


def room(module: str) -> str:
    """The room of ours that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def rooms_used(module: str) -> set[str]:
    """The other rooms of ours that a module imports from."""
    own = {name for name in imports(MODULES[module]) if name.split(".")[0] == "tileferry"}
    return {room(name) for name in own} - {room(module)}


def libraries_used(module: str) -> set[str]:
    """The libraries a module imports that are neither ours nor Python's, and `sqlite3`, which is guarded too."""
    roots = {name.split(".")[0] for name in imports(MODULES[module])}
    return {root for root in roots if root == "sqlite3" or root not in sys.stdlib_module_names} - {"tileferry"}


def test_each_room_has_its_floor() -> None:
    """Every room stands on exactly one floor, and no floor names a room that does not exist."""
    standing = [name for floor in FLOORS for name in sorted(floor)]
    assert sorted(standing) == sorted({room(module) for module in MODULES} - DOORS - {"emulator"})


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) not in DOORS | {"emulator"}])
def test_imports_point_down(module: str) -> None:
    """A room uses rooms on lower floors only, so that each can be read knowing only those below it."""
    floor = next(index for index, names in enumerate(FLOORS) if room(module) in names)
    below = {name for names in FLOORS[floor + 1 :] for name in names}
    if room(module) == "cli":
        below.add("emulator")
    assert sorted(rooms_used(module) - below) == []


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "emulator"])
def test_emulator_shares_nothing_but_the_model(module: str) -> None:
    """The emulator is written from the API's description alone, so no mistake can hide in both."""
    assert rooms_used(module) <= {"model"}


@pytest.mark.parametrize("module", MODULES)
def test_libraries_have_their_homes(module: str) -> None:
    """Each library is imported in its own rooms only; whoever needs it elsewhere asks those rooms."""
    assert sorted(name for name in libraries_used(module) if room(module) not in HOMES.get(name, set())) == []


@pytest.mark.parametrize("library", sorted(set(HOMES) - {"sqlite3"}))
def test_libraries_that_have_a_home_are_declared(library: str) -> None:
    """What is imported is asked for in pyproject.toml, or comes with what is."""
    text = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    comes_with = {"yarl": "aiohttp"}
    assert f'"{comes_with.get(library, library)}>=' in text


def test_public_names_are_guarded() -> None:
    """The library's names are exactly these, and all can be had."""
    assert list(tileferry.__all__) == NAMES
    for name in NAMES:
        assert getattr(tileferry, name).__module__.startswith(("tileferry.", "typing", "types", "collections"))


def test_unknown_name_is_an_ordinary_mistake() -> None:
    """A name that the library does not have fails like any other attribute."""
    with pytest.raises(AttributeError, match="module 'tileferry' has no attribute 'upload_all'"):
        tileferry.upload_all  # noqa: B018 - the look-up is what fails


@pytest.mark.parametrize("statement", ["import tileferry", "from tileferry import Settings, UsageError"])
def test_import_is_light(statement: str) -> None:
    """Neither the library nor its plain facts load an HTTP client or a database: `--help` has no use for them."""
    program = (
        f"import sys; {statement}; print(*sorted({{'aiohttp', 'sqlite3', 'rich', 'msgspec'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
