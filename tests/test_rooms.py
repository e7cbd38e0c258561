"""The structure, read off the imports: rooms import from rooms below them only, and no modules import in a circle.

`pytest tests/test_rooms.py -s` prints the figures.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("strategies", "service", "training")

ROOMS = (
    "strategies",
    "service.schema",
    "service.settings",
    "service.errors",
    "service.disk",
    "service.durations",
    "service.threads",
    "service.answers",
    "service.sandbox",
    "service.jobs",
    "service.graders",
    "service.wire",
    "service.engines",
    "training",
    "service.web",
    "service.registry",
    "service.context",
    "service.chat",
    "service.background",
    "service.benchmarks",
    "service.routes",
    "service.app",
    "service.commands",
    "service.__main__",
)
"""From the bottom to the top, as docs/architecture.md has them."""


@cache
def modules() -> Mapping[str, frozenset[str]]:
    """Every module of the product, and the modules of the product that it imports, wherever in it."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return {name: frozenset(imported(file, names) - {name}) for name, file in names.items()}


def imported(file: Path, names: Mapping[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        for candidates in spellings(node):
            found |= set([name for name in candidates if name in names][:1])
    return found


def spellings(node: ast.AST) -> Iterator[tuple[str, ...]]:
    """What each name of an import may be: a module of that name, else the module that it is in."""
    if isinstance(node, ast.Import):
        yield from ((alias.name,) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ((f"{node.module}.{alias.name}", str(node.module)) for alias in node.names)


def room(module: str) -> str:
    package, *rest = module.split(".")
    return f"{package}.{rest[0]}" if package == "service" and rest else package


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in modules()} - {"service"} == set(ROOMS)
    assert modules()["service"] == frozenset()


def test_no_arrow_goes_up() -> None:
    arrows = {(a, b) for a, targets in modules().items() for b in targets if room(a) != room(b)}
    up = [f"{a} -> {b}" for a, b in sorted(arrows) if ROOMS.index(room(a)) < ROOMS.index(room(b))]
    between = {(room(a), room(b)) for a, b in arrows}
    print(f"\n{len(ROOMS)} rooms, {len(modules())} modules, {len(between)} arrows between rooms, {len(up)} up")
    assert not up


def test_no_modules_import_in_a_circle() -> None:
    try:
        order = list(TopologicalSorter(modules()).static_order())
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from error
    print(f"\n{len(order)} modules, 0 circles")
