"""What Monty does not support, as against what is wrong in a program. Runs in a worker: parsing may take anything.

CPython decides: what it parses and Monty does not, what it has and Monty has not, is a limit of Monty's. A program that
does not want to be judged can use such a thing on purpose, and gets no opinion; it cannot get a better one.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import warnings
from collections.abc import Iterator

ABSENT = ("ModuleNotFoundError", "ImportError")
CRASHED = "Internal error in monty"
UNABLE = ("not yet support", "not supported in this environment", "cannot create '")

MODULES = frozenset(
    (
        "asyncio",
        "base64",
        "bisect",
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "functools",
        "hashlib",
        "itertools",
        "json",
        "math",
        "os",
        "pathlib",
        "random",
        "re",
        "sys",
        "time",
        "typing",
    )
)
"""What Monty has, and perhaps not all of: looked up in CPython's own, which importing changes nothing."""

METHODS = frozenset(
    (
        "init",
        "post_init",
        "eq",
        "ne",
        "hash",
        "repr",
        "str",
        "call",
        "iter",
        "next",
        "getitem",
        "setitem",
        "contains",
        "enter",
        "exit",
        "add",
        "radd",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "neg",
        "abs",
        "int",
        "float",
        "index",
    )
)
"""Special methods that Monty calls (1.4); it takes others and ignores them."""

LAZY = frozenset({"map", "filter", "zip", "enumerate"})
"""What Monty works out at once where CPython goes one by one, as generator expressions: of an endless iterator that
takes for ever."""

NO_NAME = re.compile(r"name '(\w+)' is not defined")
NO_MEMBER = re.compile(r"module '(\w+)' has no attribute '(\w+)'|cannot import name '(\w+)' from '(\w+)'")
NO_METHOD = re.compile(r"(?:type object )?'(\w+)'(?: object)? has no attribute '(\w+)'")


def unsupported(kind: str, message: str, source: str) -> str | None:
    """Why a program that ended in this exception is not judged; None: as far as is known, Python does the same."""
    if kind == "SyntaxError":
        return f"a syntax that Monty does not know: {message}" if compiles(source) else None
    if kind in ABSENT and (named := re.search(r"No module named '([\w.]+)'", message)):
        return f"there is no module {named[1]!r}"
    if (found := missing(message)) or message.startswith(CRASHED) or any(part in message for part in UNABLE):
        return found or message.removeprefix("The monty syntax parser ")
    tree = parse(source)
    if tree is None:
        return None
    if kind in ("TimeoutError", "MemoryError"):
        return f"{lazy} is worked out at once" if (lazy := next(lazies(tree), None)) else None
    return f"the special method {method!r} is never called" if (method := next(ignored(tree), None)) else None


def missing(message: str) -> str | None:
    """The name of a built-in or a library that CPython has and Monty has not."""
    if found := NO_MEMBER.search(message):
        module, name = found[1] or found[4], found[2] or found[3]
        known = module in MODULES and hasattr(importlib.import_module(module), name)
        return f"there is no {module}.{name}" if known else None
    if found := NO_METHOD.search(message):
        owner = getattr(builtins, found[1], object)
        known = isinstance(owner, type) and (hasattr(owner, found[2]) or found[2].startswith("__"))
        return f"there is no {found[1]}.{found[2]}" if known else None
    found = NO_NAME.search(message)
    return f"there is no {found[1]}" if found and hasattr(builtins, found[1]) else None


def parse(source: str) -> ast.Module | None:
    """CPython's tree of a text; None where it is no program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return None


def compiles(source: str) -> bool:
    """Whether CPython takes a text for a program, in which it may await at the top as in Monty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(source, "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
    return True


def lazies(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.GeneratorExp):
            yield "a generator expression"
        elif isinstance(node, ast.Name) and node.id in LAZY:
            yield node.id


def ignored(tree: ast.Module) -> Iterator[str]:
    """The special methods of a program's classes that Monty does not call."""
    for node in ast.walk(tree):
        for item in node.body if isinstance(node, ast.ClassDef) else ():
            name = getattr(item, "name", "")
            if name.startswith("__") and name.endswith("__") and name.strip("_") not in METHODS:
                yield name
