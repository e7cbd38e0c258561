"""Code of models in Monty: what passes, what fails, what there is no opinion on, and what tries to do harm."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.answers.pool import AnswerPool
from service.sandbox import Limits, Sandbox, StdinCase, last_code_block, open_sandbox, programs
from service.sandbox.programs import Ended
from service.settings import Settings
from tests.conftest import shared_sandbox

DOUBLE = "def double(n):\n    return 2 * n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2"),
        ("```\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1"),
        ("```py\nx = 1\n```\n```bash\nls\n```", "x = 1"),
        ("```Python3 title=a.py\nx = 1\n```", "x = 1"),
        ("1. so:\n   ```python\n   if a:\n       b()\n   ```", "if a:\n    b()"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n```", ""),
        ("```bash\nls\n```", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_the_last_code_block(text: str, code: str | None) -> None:
    assert last_code_block(text) == code


async def test_each_test_counts_by_itself() -> None:
    result = await shared_sandbox().run_tests(DOUBLE, ["assert double(2) == 4", "assert double(2) == 5", "double(0)"])
    assert (result.passed, result.failed, result.unsupported) == (2, 1, None)
    assert result.first_failure == "AssertionError: assert 4 == 5"


async def test_each_test_has_an_interpreter_of_its_own() -> None:
    code = "seen = []\ndef add(x):\n    seen.append(x)\n    return len(seen)"
    result = await shared_sandbox().run_tests(code, ["assert add(1) == 1"] * 3)
    assert (result.passed, result.failed) == (3, 0)


async def test_what_is_random_is_the_same_each_time() -> None:
    code = "import random\nx = random.random()"
    sandbox = shared_sandbox()
    said = {(await sandbox.run_tests(code, ["assert x == 0"])).first_failure for _ in range(2)}
    assert len(said) == 1


@pytest.mark.parametrize(
    ("code", "case", "passed"),
    [
        ("print(2 * int(input()))", StdinCase("3\n", "6\n"), True),
        ("print(2 * int(input('? ')))", StdinCase("3", "6"), True),
        ("print(2 * int(input()), '')\nprint()", StdinCase("3\n", "6\n"), True),
        ("print(3 * int(input()))", StdinCase("3\n", "6\n"), False),
        ("print(sum([int(input()) for _ in range(2000)]))", StdinCase("1\n" * 2000, "2000"), True),
        ("input()\ninput()", StdinCase("3\n", ""), False),
        ("print('6')", StdinCase("3\n", "6\n"), True),
        ("", StdinCase("3\n", "6\n"), False),
    ],
)
async def test_a_program_is_judged_by_what_it_prints(code: str, case: StdinCase, passed: bool) -> None:
    result = await shared_sandbox().run_tests(code, [case])
    assert (result.passed, result.failed, result.unsupported) == (int(passed), int(not passed), None)


UNSUPPORTED = [
    ("import numpy", "no module 'numpy'"),
    ("import heapq", "no module 'heapq'"),
    ("from collections import OrderedDict", "no collections.OrderedDict"),
    ("import os\nos.fork()", "no os.fork"),
    ("import sys\nsys.exit()", "no sys.exit"),
    ("__import__('os')", "no __import__"),
    ("input()", "no input"),
    ("(5).bit_length()", "no int.bit_length"),
    ("def f():\n    yield 1", "yield"),
    ("class A(Exception): pass", "inheritance"),
    ("class A:\n    @property\n    def x(self): return 1", "property"),
    ("class A:\n    def __len__(self): return 1\nlen(A())", "__len__"),
    ("x = [1]\ndel x[0]", "del"),
    ("open('/etc/passwd').read()", "no files"),
    ("import os\nos.listdir('/')", "no files"),
    ("import os\nos.environ['PATH']", "no environment"),
    ("import itertools\nnext(n for n in itertools.count() if n > 2)", "generator expression"),
    ("x = 1" + " " * programs.LONGEST, "longer than"),
]


@pytest.mark.parametrize(("code", "why"), UNSUPPORTED)
async def test_what_monty_does_not_know_is_no_failure(code: str, why: str) -> None:
    result = await shared_sandbox().run_tests(code, ["assert True", "assert False"])
    assert (result.passed, result.failed) == (0, 0)
    assert why in (result.unsupported or "")


@pytest.mark.parametrize(
    "code", ["x = 1\nassert x == 2", "[].foo", "import math\nmath.foo", "undefined", "x = ", "\x00"]
)
async def test_what_python_would_refuse_too_is_a_failure(code: str) -> None:
    result = await shared_sandbox().run_tests(code, ["assert True"])
    assert (result.passed, result.failed, result.unsupported) == (0, 1, None)


async def test_a_program_that_leaves_early_may_have_printed_all_of_it() -> None:
    result = await shared_sandbox().run_tests("print(6)\nraise SystemExit", [StdinCase("", "6"), StdinCase("", "7")])
    assert (result.passed, result.failed, "SystemExit" in (result.unsupported or "")) == (0, 0, True)


async def test_a_test_that_is_no_python_says_nothing_of_the_code() -> None:
    result = await shared_sandbox().run_tests(DOUBLE, ["assert double(1) == 2", "assert double(1) =="])
    assert (result.passed, result.failed) == (1, 0)
    assert "no Python" in (result.unsupported or "")


HOSTILE = {
    "endless": "while True: pass",
    "endless in exec": "exec('while True: pass')",
    "deaf": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "recursion": "def f(): return f()\nf()",
    "recursion that goes on": "def f():\n    try: f()\n    except BaseException: f()\nf()",
    "recursion in repr": "class A:\n    def __repr__(self): return repr([self])\nrepr(A())",
    "ten gigabytes at once": "'a' * 10**10",
    "a gigabyte by and by": "x = []\nwhile len(x) < 10**9: x.append('a' * 1000 + str(len(x)))",
    "a gigabyte caught": "try:\n    x = 'a' * 10**10\nexcept BaseException: pass",
    "a tower of powers": "10 ** 10 ** 8",
    "a huge factorial": "import math\nmath.factorial(10**7)",
    "printing": "while True: print('x' * 1000)",
    "brackets": "(" * 100_000 + ")" * 100_000,
    "open brackets": "[" * 200_000,
    "minus signs": "-" * 200_000 + "1",
    "a huge error": "raise ValueError('a' * 10**7)",
    "leaving": "raise SystemExit",
    "half a character": "x = '\ud800'",
    "a slow pattern": "import re\nre.match(r'(.*)*\\1x', 'a' * 50_000)",
    "deep data": "x = []\nfor _ in range(10**6): x = [x]\nassert x == 1",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_code_fails_within_its_limits(name: str) -> None:
    sandbox = shared_sandbox()
    began = asyncio.get_running_loop().time()
    result = await sandbox.run_tests(HOSTILE[name], ["assert True"])
    assert (result.passed, result.failed, result.unsupported) == (0, 1, None)
    assert asyncio.get_running_loop().time() - began < sandbox.limits.longest
    after = await sandbox.run_tests(DOUBLE, ["assert double(1) == 2"])
    assert after.passed == 1


@pytest.mark.parametrize("test", ["while True: pass", "'a' * 10**10", "double = double(double)"])
async def test_hostile_tests_fail_within_their_limits(test: str) -> None:
    result = await shared_sandbox().run_tests(DOUBLE, [test])
    assert (result.passed, result.failed, result.unsupported) == (0, 1, None)


@pytest.mark.parametrize(
    "code",
    [
        "def check(a, b): pass",
        "class AssertionError: pass",
        "'''",
        "if False:",
        "x = (",
        "x = \\",
        "try:\n    pass\nexcept BaseException:\n    pass",
        "def assert_equal(a, b): return True\nprint('passed')",
        "raise SystemExit(0)",
    ],
)
async def test_code_cannot_keep_a_test_from_running(code: str) -> None:
    test = "'''a text'''\ndef check(a, b):\n    assert a == b\ncheck(1, 2)"
    result = await shared_sandbox().run_tests(code, [test])
    assert result.passed == 0


async def test_an_answer_that_is_always_too_slow_is_not_waited_for_again_and_again() -> None:
    ran: list[str] = []

    class Slow(AnswerPool):
        def __init__(self) -> None:
            pass

        def share(self, key: str, request: str) -> Any:
            return self

        async def run(self, job: Callable[..., Any], *args: Any) -> Any:
            ran.append(args[1])
            return Ended("slow", "TimeoutError")

    result = await Sandbox(Slow(), Limits()).run_tests("", [str(n) for n in range(50)])
    assert (ran, result.passed, result.failed) == (["0", "1", "2"], 0, 50)


@pytest.mark.parametrize(("ends", "tries"), [(["starved", "done"], 2), (["crashed", "done"], 2), (["failed"], 1)])
async def test_only_what_says_nothing_of_the_program_is_tried_again(ends: list[Any], tries: int) -> None:
    left = [*ends]

    class Moody(AnswerPool):
        def __init__(self) -> None:
            pass

        def share(self, key: str, request: str) -> Any:
            return self

        async def run(self, job: Callable[..., Any], *args: Any) -> Any:
            return Ended(left.pop(0))

    result = await Sandbox(Moody(), Limits()).run_tests("", [""])
    assert len(ends) - len(left) == tries
    assert result.passed == (ends[-1] == "done")


def surroundings(limits: Limits) -> dict[str, Any]:
    """In a worker: what a Monty is started with."""
    from pydantic_monty import Monty

    with programs.processor_limit(limits.longest), Monty(max_processes=1) as pool, pool.checkout() as session:
        session.feed_run("1")
        folder = Path(f"/proc/{session.worker_pid}")
        rows = [re.split(r"\s{2,}", line) for line in (folder / "limits").read_text().splitlines()]
        return {"own": dict(os.environ), "its": (folder / "environ").read_bytes(), **{row[0]: row[1] for row in rows}}


async def test_the_interpreter_inherits_no_secrets_and_the_limits_of_the_system(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "s3cret")
    sandbox = open_sandbox(Settings(sandbox_workers=1, answer_workers=1))
    try:
        found = await sandbox.pool.run(surroundings, sandbox.limits)
    finally:
        sandbox.pool.close()
    assert (found["own"], found["its"]) == ({}, b"")
    assert 0 < int(found["Max cpu time"]) < 60
    assert 0 < int(found["Max address space"]) < 2 * 2**30
    assert found["Max core file size"] == "0"


def left_behind() -> int:
    """In a worker: a Monty that does nothing but run, left behind by a worker that is killed."""
    from pydantic_monty import Monty

    with programs.processor_limit(1):
        pool = Monty(max_processes=1, feed_duration_limit_grace=None).__enter__()
    session = pool.checkout().__enter__()
    session.feed_run("1")
    pid = session.worker_pid
    threading.Thread(target=session.feed_run, args=("while True: pass",), daemon=True).start()
    assert pid is not None
    return pid


async def test_an_interpreter_that_is_left_behind_ends_by_itself() -> None:
    """It is without a limit of Monty's own here, and its worker is killed: what ends it is the system's limit."""
    sandbox = open_sandbox(Settings(sandbox_workers=1))
    try:
        pid = await sandbox.pool.run(left_behind)
    finally:
        sandbox.pool.close()
    async with asyncio.timeout(60):
        while alive(pid):  # noqa: ASYNC110 - nobody is told of the end of another's child
            await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
