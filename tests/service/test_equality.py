"""Reading and comparing in real processes, which are killed when they take too long and never outlive their parent."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.answers.equality import CAPPED, AnswerReader, Share, check_pattern, join, provable, root, tool_calls
from service.answers.pool import AnswerPool, PoolShare, Turns
from strategies.answers import AnswerType
from strategies.errors import InvalidParameter
from strategies.types import Candidate, Generation

ROOT = Path(__file__).parents[2]
HOPELESS = "2003^{2002^{2001}}"
SECONDS = 180.0  # for things that take one; only a failing test waits that long
LIMIT = 30.0  # of a job; a busy machine takes some of them only to start a worker


@pytest.fixture(scope="module")
def workers() -> Iterator[AnswerPool]:
    """One pool for all tests of this file, since a worker takes a second to import sympy."""
    pool = AnswerPool(2, LIMIT)
    yield pool
    pool.close()


@pytest.fixture
def hasty(workers: AnswerPool) -> AnswerPool:
    """The same pool for jobs that never end: they need not be waited for."""
    pool = copy(workers)
    pool.limit = 1.0
    return pool


def says(text: str, finish_reason: str = "stop", **message: Any) -> Candidate:
    return Candidate(0, (Generation(text, finish_reason=finish_reason, message=message),))


class Unshared:
    """A pool of one request alone."""

    limit = LIMIT

    async def run(self, job: Any, *args: Any) -> Any:
        raise NotImplementedError

    async def running(self, limits: int) -> None:
        await asyncio.sleep(limits * self.limit)


def alone(workers: AnswerPool) -> PoolShare:
    return workers.share("key", "request")


async def classes(workers: Share, *spellings: str | None, kind: AnswerType = "math") -> list[int | None]:
    async with asyncio.timeout(SECONDS):
        return await AnswerReader(workers, kind).classes(spellings)


# Which are equal


async def test_answers_spelled_alike_are_equal_whatever_they_are(workers: AnswerPool) -> None:
    assert await classes(alone(workers), "b", "a", "b", None, "a", kind="text") == [0, 1, 0, None, 1]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("3/4", "\\frac{3}{4}"),
        ("2\\sqrt{2}", "\\sqrt{8}"),
        ("x^2-1", "(x-1)(x+1)"),
        ("x = 5", "5"),
        ("x \\in (1,2)", "(1,2)"),
        ("1,2", "1, 2"),
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("Yes", "yes"),
    ],
)
async def test_equal_to_a_mathematician_is_equal_either_way_round(workers: AnswerPool, left: str, right: str) -> None:
    assert await classes(alone(workers), left, right) == await classes(alone(workers), right, left) == [0, 0]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1", "2"),
        ("1,2", "12"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("50", "0.5"),
        ("\\frac{1}{3}", "0.333"),
        ("\\infty", "-\\infty"),
        ("2x", "2"),
        ("east", "seat"),
        ("ABC", "CAB"),
        ("A", "a"),
        ("x", "y"),
        ("no", "7"),
        ("}{", "{}"),
    ],
)
async def test_what_differs_to_a_mathematician_differs(workers: AnswerPool, left: str, right: str) -> None:
    assert await classes(alone(workers), left, right) == [0, 1]


async def test_numbers_are_compared_by_value_and_texts_by_spelling(workers: AnswerPool) -> None:
    assert await classes(alone(workers), "1/2", "0.5", kind="number") == [0, 0]
    assert await classes(alone(workers), "1/2", "0.5", kind="text") == [0, 1]


async def test_none_stays_none_and_classes_are_numbered_in_order(workers: AnswerPool) -> None:
    answers = (None, "7", None, "0.5", "x+1", "\\frac{1}{2}", "1+x", "7")
    assert await classes(alone(workers), *answers) == [None, 0, None, 1, 2, 1, 2, 0]
    assert await classes(alone(workers), None, None) == [None, None]
    assert await classes(alone(workers)) == []


async def test_equality_is_transitive() -> None:
    """Even where a mathematician is not: he is asked for all pairs, and one yes is enough."""

    class Neighbours(AnswerReader):
        async def equal_pairs(self, spellings: Sequence[str]) -> list[tuple[str, str]]:
            return [("a", "b"), ("c", "d"), ("b", "c")]

    reader = Neighbours(None)  # type: ignore[arg-type]
    assert await reader.classes(["a", "x", "d", "c", "b"]) == [0, 1, 0, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12))
def test_joined_is_connected(pairs: list[tuple[int, int]]) -> None:
    parent = {str(i): str(i) for i in range(8)}
    for left, right in pairs:
        join(parent, str(left), str(right))
    reached = {i: {i} for i in range(8)}
    for _ in range(8):
        for left, right in pairs:
            reached[left] = reached[right] = reached[left] | reached[right]
        reached = {i: set().union(*(reached[j] for j in reached[i])) for i in range(8)}
    for i in range(8):
        assert {j for j in range(8) if root(parent, str(j)) == root(parent, str(i))} == reached[i]


SPELLINGS = ["\\frac{1}{2}", "0.5", "x+1", "1+x", "\\sqrt{4}", "2", "east", "(1,2)", None]


def partition(spellings: Sequence[str | None], numbers: Sequence[int | None]) -> set[frozenset[str | None]]:
    return {frozenset(s for s, n in zip(spellings, numbers, strict=True) if n == number) for number in numbers}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(SPELLINGS))
def test_which_are_equal_does_not_depend_on_their_order(workers: AnswerPool, spellings: Sequence[str | None]) -> None:
    numbers = asyncio.run(classes(alone(workers), *spellings))
    equal: list[set[str | None]] = [
        {"\\frac{1}{2}", "0.5"},
        {"x+1", "1+x"},
        {"\\sqrt{4}", "2"},
        {"east"},
        {"(1,2)"},
        {None},
    ]
    assert partition(spellings, numbers) == {frozenset(one) for one in equal}


def test_what_is_spelled_canonically_or_is_very_long_is_not_worth_a_proof() -> None:
    assert not provable("1", "2")
    assert not provable("A", "B")
    assert not provable("A", "7")
    assert not provable("x+1", "x" * 500 + "+1")
    assert provable("x+1", "1+x")
    assert provable("\\frac{1}{2}", "0.5")


# What takes too long


async def test_a_hopeless_formula_is_killed_and_the_others_are_still_compared(
    workers: AnswerPool, hasty: AnswerPool
) -> None:
    class Both(Unshared):
        async def run(self, job: Any, pairs: Sequence[tuple[str, str]]) -> Any:
            return await (hasty if HOPELESS in chain(*pairs) else workers).run(job, pairs)

    answers = (HOPELESS, "\\frac{1}{2}", "0.5", "7", HOPELESS)
    assert await classes(Both(), *answers) == [0, 1, 1, 2, 0]
    assert await classes(alone(workers), "x+1", "1+x") == [0, 0]


async def test_so_many_formulae_that_they_take_longer_than_one_job_may_are_compared_all_the_same(
    workers: AnswerPool,
) -> None:
    answers = [f"x^{{{i}}}+1" for i in range(6)] + [f"1+x^{{{i}}}" for i in range(6)]
    assert await classes(Limited(workers), *answers) == [*range(6), *range(6)]


class Limited(Unshared):
    """A pool that is killed at any job of more than a few pairs, as a slow machine would be."""

    def __init__(self, workers: AnswerPool) -> None:
        self.workers = workers
        self.limit = SECONDS

    async def run(self, job: Any, pairs: Sequence[tuple[str, str]]) -> Any:
        if len(pairs) > 1:
            raise TimeoutError
        return await self.workers.run(job, pairs)


async def test_what_is_never_known_differs_and_is_waited_for_only_so_long() -> None:
    class Never(Unshared):
        limit = 0.01

        async def run(self, job: Any, pairs: Sequence[tuple[str, str]]) -> Any:
            await asyncio.Event().wait()

    assert await classes(Never(), "x+1", "1+x", "7") == [0, 1, 2]


async def test_a_catastrophic_pattern_is_killed_and_named(workers: AnswerPool, hasty: AnswerPool) -> None:
    reader = AnswerReader(alone(hasty), pattern="^((?:a|aa|a)+)+$")
    with pytest.raises(InvalidParameter) as refused:
        await reader.read([says("a" * 60 + "!")])
    assert refused.value.param == "answer.pattern"
    assert await AnswerReader(alone(workers)).read([says("It is 42.")]) == ["42"]


async def test_reading_that_takes_too_long_finds_nothing_but_tool_calls(workers: AnswerPool) -> None:
    class Slow(Unshared):
        limit = 1.0

        async def run(self, *job: Any) -> Any:
            raise TimeoutError

    called = says("", "tool_calls", tool_calls=[{"id": "x", "function": {"name": "f", "arguments": "{}"}}])
    assert await AnswerReader(Slow()).read([says("42"), called]) == [None, '[["f",{}]]']


async def test_a_worker_that_dies_is_a_timeout_and_is_replaced(workers: AnswerPool) -> None:
    with pytest.raises(TimeoutError):
        await workers.run(os._exit, 3)
    assert await classes(alone(workers), "x+1", "1+x") == [0, 0]


# One request among many


NESTED = "(" + "(?:" * 60 + "a|" + ")+" * 60 + ")"
"""A pattern whose compilation doubles in time and memory with every level."""


@pytest.fixture(scope="module")
def small() -> Iterator[AnswerPool]:
    """A pool of two whose jobs have little time and memory."""
    pool = AnswerPool(2, 1.0, 64 * 2**20)
    yield pool
    pool.close()


async def test_a_pattern_that_explodes_is_killed_for_its_time_or_memory(small: AnswerPool) -> None:
    async with asyncio.timeout(SECONDS):
        with pytest.raises((TimeoutError, MemoryError)):
            await small.run(check_pattern, NESTED)
        assert await small.run(check_pattern, "(a)") is None


async def test_a_job_that_wants_too_much_memory_is_refused_it(small: AnswerPool) -> None:
    async with asyncio.timeout(SECONDS):
        with pytest.raises(MemoryError):
            await small.run(bytes, 256 * 2**20)


async def test_answers_are_compared_while_another_key_has_its_jobs_killed(small: AnswerPool) -> None:
    """Boxed 1/2 has three votes against two, however busy the pool is; the other key holds but one of its workers."""
    hostile = small.share("hostile", "request")
    attack = [asyncio.ensure_future(hostile.run(check_pattern, NESTED)) for _ in range(40)]
    reader = AnswerReader(small.share("honest", "request"))
    async with asyncio.timeout(SECONDS):
        numbers = await reader.classes(["1/2", "\\frac{1}{2}", "0.5", "7", "7"])
    for job in attack:
        job.cancel()
    await asyncio.gather(*attack, return_exceptions=True)
    assert (numbers, reader.undecided, reader.remarks) == ([0, 0, 0, 1, 1], 0, [])


async def test_keys_take_turns_and_so_do_their_requests() -> None:
    turns, order = Turns(1), []

    async def job(key: str, request: str) -> None:
        async with turns.hold(key, request):
            order.append(f"{key}{request}")
            await asyncio.sleep(0)

    asked = [("a", "1")] * 3 + [("a", "2")] * 2 + [("b", "1")] * 2
    await asyncio.gather(*(job(*one) for one in asked))
    assert order == ["a1", "a1", "b1", "a2", "b1", "a1", "a2"]


async def test_who_leaves_gives_its_turn_to_the_next() -> None:
    turns = Turns(1)
    async with turns.hold("a", "1"):
        left = asyncio.ensure_future(turns.hold("b", "1").__aenter__())
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
    async with turns.hold("c", "1"):
        pass
    assert turns.free == 1


async def test_what_could_not_be_compared_is_named(small: AnswerPool) -> None:
    reader = AnswerReader(small.share("key", "request"))
    async with asyncio.timeout(SECONDS):
        assert await reader.classes([HOPELESS, "7", "x+1", "1+x"]) == [0, 1, 2, 2]
    assert reader.undecided == 1
    assert reader.remarks == [f"some answers could not be compared in time and are counted as different: {HOPELESS}"]


async def test_classes_grow_and_nothing_is_asked_twice(workers: AnswerPool) -> None:
    asked: list[tuple[str, str]] = []

    class Counting(Unshared):
        async def run(self, job: Any, *args: Any) -> Any:
            asked.extend(args[0] if job.__name__ == "same_pairs" else [])
            return await workers.run(job, *args)

    reader = AnswerReader(Counting())
    assert await reader.classes(["x+1", "2", "1+x"]) == [0, 1, 0]
    assert await reader.classes(["x+1", "2", "1+x", "\\sqrt{4}", "3"]) == [0, 1, 0, 1, 2]
    assert len(asked) == len(set(asked))
    assert ("1+x", "\\sqrt{4}") in asked, "a new answer is compared with one answer of each class"
    assert ("x+1", "\\sqrt{4}") not in asked


async def test_too_many_formulae_are_compared_by_their_spelling() -> None:
    class Different(Unshared):
        async def run(self, job: Any, pairs: Sequence[tuple[str, str]]) -> Any:
            return [False] * len(pairs)

    reader = AnswerReader(Different())
    names = [f"x^{{{i}}}" for i in range(200)]
    assert await reader.classes(names * 2) == [*range(200)] * 2
    assert reader.remarks == [CAPPED]


async def test_ten_thousand_answers_cost_the_event_loop_little() -> None:
    """Half of them are distinct. Counted is this thread's own time, however busy the machine is."""
    numbers = [str(i % 5000) for i in range(10_000)]
    reader = AnswerReader(Unshared())
    began = time.thread_time()
    classes = await reader.classes(numbers)
    assert time.thread_time() - began < 0.05
    assert classes == [i % 5000 for i in range(10_000)]


# Reading


async def test_every_candidate_has_its_answer_in_order(workers: AnswerPool) -> None:
    found = await AnswerReader(alone(workers)).read([says("It is 1."), says("Who knows?"), says("\\boxed{\\dfrac12}")])
    assert found == ["1", None, "\\frac12"]


@pytest.mark.parametrize("finish_reason", ["length", "abort", "error", "repetition"])
@pytest.mark.parametrize("pattern", [None, "(.*)"])
async def test_a_cut_sample_has_no_answer(workers: AnswerPool, finish_reason: str, pattern: str | None) -> None:
    calls = [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]
    cut = [says("The answer is 42.", finish_reason), says("", finish_reason, tool_calls=calls)]
    assert await AnswerReader(alone(workers), pattern=pattern).read(cut) == [None, None]


@pytest.mark.parametrize(
    ("kind", "pattern", "text", "answer"),
    [
        ("math", r"Verdict: (\S+)", "Verdict: 1\nVerdict: 2,000", "2000"),
        ("text", r"Verdict: (.+)", "Verdict: Not   Guilty", "Not Guilty"),
        ("text", r"(?i)verdict:(.*)", "VERDICT:   ", None),
        ("number", r"Verdict: (\S+)", "none", None),
        ("choice", r"Verdict: (?:(\w)|-)", "Verdict: -", None),
    ],
)
async def test_a_pattern_finds_the_last_match_of_its_group(
    workers: AnswerPool, kind: AnswerType, pattern: str, text: str, answer: str | None
) -> None:
    assert await AnswerReader(alone(workers), kind, pattern).read([says(text)]) == [answer]


async def test_what_a_pattern_found_is_compared_by_spelling(workers: AnswerPool) -> None:
    assert await AnswerReader(alone(workers), pattern="(.+)").classes(["x+1", "1+x", "x+1"]) == [0, 1, 0]


def test_tool_calls_are_equal_but_for_ids_spaces_and_the_order_of_keys() -> None:
    def call(id: str, arguments: str) -> Candidate:
        return says("", "tool_calls", tool_calls=[{"id": id, "function": {"name": "f", "arguments": arguments}}])

    assert (
        tool_calls(call("a", '{"x": 1, "y": 2}')) == tool_calls(call("b", '{"y":2,"x":1}')) == '[["f",{"x":1,"y":2}]]'
    )
    assert tool_calls(call("a", '{"x": 1}')) != tool_calls(call("a", '{"x": 2}'))
    assert tool_calls(call("a", "{broken")) == '[["f","{broken"]]'
    assert tool_calls(says("no calls")) is None


async def test_a_tool_call_is_the_answer_whatever_the_text_says(workers: AnswerPool) -> None:
    calls = [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]
    assert await AnswerReader(alone(workers)).read([says("It is 42.", "tool_calls", tool_calls=calls)]) == [
        '[["f",{}]]'
    ]


# The processes. A worker holds a FIFO open, so that its end is the worker's.


def hold(fifo: str, busy: bool) -> None:
    """In a worker: open the FIFO for good and say so; then work for ever, deaf to everything, or be idle."""
    os.write(os.open(fifo, os.O_WRONLY), b"!")
    if busy:
        pow(2003, 2002**2001)


def line(fifo: int) -> bytes:
    """What comes next out of the FIFO; nothing at its end."""
    assert select.select([fifo], [], [], SECONDS)[0], "no worker came, or went"
    return os.read(fifo, 1)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A FIFO's path and its reading end, which sees the end once its writers have come and gone."""
    path = tmp_path / "held"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reading
    os.close(reading)


PARENT = """
import asyncio, sys
from service.answers.pool import AnswerPool
from tests.service.test_equality import hold

async def main():
    workers = AnswerPool(1, 3600.0)
    await workers.run(hold, sys.argv[1], sys.argv[2] == "busy")
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_workers_do_not_outlive_a_parent_that_was_killed(fifo: tuple[str, int], state: str) -> None:
    path, reading = fifo
    parent = subprocess.Popen([sys.executable, "-c", PARENT, path, state], cwd=ROOT, start_new_session=True)
    try:
        assert line(reading) == b"!"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert line(reading) == b""
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("busy", [False, True])
async def test_closing_leaves_no_worker(fifo: tuple[str, int], busy: bool) -> None:
    path, reading = fifo
    pool = AnswerPool(1, 3600.0)
    job = asyncio.ensure_future(pool.run(hold, path, busy))
    try:
        assert await asyncio.to_thread(line, reading) == b"!"
    finally:
        pool.close()
    assert line(reading) == b""
    job.cancel()


async def test_cancelling_a_job_kills_its_worker(fifo: tuple[str, int], workers: AnswerPool) -> None:
    path, reading = fifo
    job = asyncio.ensure_future(workers.run(hold, path, True))
    assert await asyncio.to_thread(line, reading) == b"!"
    job.cancel()
    assert await asyncio.to_thread(line, reading) == b""
