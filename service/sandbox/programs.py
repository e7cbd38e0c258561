"""In a worker: one program in a fresh process of Monty, which ends with it.

Monty's own limits end nearly everything. Behind them stand the operating system's: the process has an address space and
seconds of a processor, so that not even a fault in Monty holds the machine, or outlives a worker that is killed.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from service.answers.pool import address_space, die_with
from service.sandbox.support import compiles, unsupported

Kind = Literal["done", "failed", "unsupported", "slow", "starved", "crashed"]

OUTPUT_BYTES = 2**20
"""What a program may print."""
LONGEST = 256 * 1024
"""Characters of a program, or of a test."""
GRACE = 1.0
"""Seconds after which a process that did not keep its time limit is killed."""
PATIENT = 4
"""The patience with a program that was kept from the processor at its first try."""
START = 5.0
"""Seconds that a process may take to start, and to answer, on a busy machine."""
RESERVE_BYTES = 512 * 2**20
"""Address space of a Monty that runs nothing (180 MiB), and of the worker that reads what it sends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program: seconds for what it defines and as many for what is then run, bytes of memory, depth of calls.

    Monty's clock is the wall's. `patience`: how many times as long it may take, on a machine that is busy with others.
    """

    seconds: float = 2.0
    memory: int = 64 * 2**20
    recursion: int = 1000
    patience: int = 1

    @property
    def longest(self) -> float:
        """Seconds after which the worker itself is killed."""
        return 2 * (PATIENT * self.seconds + GRACE) + START


@dataclass(frozen=True, slots=True)
class StdinCase:
    """A test by what a program reads with `input()` and what it prints."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `reason` is for people; `starved`: the machine was too busy to run it for its time."""

    kind: Kind
    reason: str = ""
    value: float | None = None


@dataclass(slots=True)
class Program:
    """A source and what is run after it, in one interpreter; `seen` is what was run when it ended."""

    source: str
    then: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stdin: str | None = None
    seen: str = ""
    refused: list[str] = field(default_factory=list)  # calls for what there is none of: files, the environment

    def lines(self) -> Callable[..., str]:
        """`input`, which prints no prompt: expected outputs have none."""
        lines = iter((self.stdin or "").splitlines())

        def read(prompt: object = "") -> str:
            if (line := next(lines, None)) is None:
                raise RuntimeError("EOF when reading a line")
            return line

        return read

    def refuse(self, **call: Any) -> object:
        from pydantic_monty import NOT_HANDLED

        self.refused.append(str(call.get("name")))
        return NOT_HANDLED


def run_test(source: str, test: str | StdinCase, limits: Limits) -> Ended:
    """Run a program and then a test of it; what a test with an error in itself would say, it says of no program."""
    if isinstance(test, StdinCase):
        program = Program(source, stdin=test.stdin)
        ended, printed = run(program, limits)
        if ended.kind == "done" and tidy(printed) != tidy(test.stdout):
            return Ended("failed", f"printed {short(printed)}, not {short(test.stdout)}")
        return ended
    if not compiles(test):
        return Ended("unsupported", f"the test {short(test)} is no Python")
    return run(Program(source, then=f"{test}\n\nNone"), limits)[0]


def run_grade(source: str, given: str, limits: Limits) -> Ended:
    """Call `grade(sample, item)` of a source; `given` is an object with both, as JSON."""
    then = "_result = grade(sample, item)\n_result if type(_result) in (int, float, bool) else type(_result).__name__"
    return run(Program(source, then, json.loads(given)), limits)[0]


def check_source(source: str, limits: Limits) -> Ended:
    """Run what a grader's source does before anything is graded, and see that it leaves a function `grade`."""
    return run(
        Program(source, "if str(type(grade)) != \"<class 'function'>\":\n  raise TypeError('grade is no function')"),
        limits,
    )[0]


def run(program: Program, limits: Limits) -> tuple[Ended, str]:
    """How a program ended, and what it had printed."""
    from pydantic_monty import CollectString, MontyCrashedError, MontyError

    output = CollectString(OUTPUT_BYTES)
    spent = children()
    try:
        value = feed(program, limits, output)
    except MontyCrashedError as error:
        return Ended("slow" if error.timed_out else "crashed", short(str(error))), ""
    except MontyError as error:
        ended = judge(program, type(error.exception()).__name__, short(str(error)))
        busy = ended.kind == "slow" and children() - spent < limits.seconds / 2
        return Ended("starved", "the machine is too busy") if busy else ended, output.output
    except UnicodeEncodeError:
        return Ended("failed", "the text is no UTF-8"), ""
    return read_value(value), output.output


def feed(program: Program, limits: Limits, output: Any) -> object:
    from pydantic_monty import Monty

    outside: dict[str, Any] = {"external_lookup": {"input": program.lines()}} if program.stdin is not None else {}
    with (
        processor_limit(limits.longest),
        Monty(max_processes=1, feed_duration_limit_grace=GRACE) as pool,
        pool.checkout(
            limits={
                "max_feed_duration_secs": limits.seconds * limits.patience,
                "max_memory": limits.memory,
                "max_recursion_depth": limits.recursion,
                "max_suspensions": 1000 + (program.stdin or "").count("\n"),
            },
            os_policy={"sleep": "zero", "random_start": {"seed": 0}},  # the same program, the same score
        ) as session,
    ):
        common: dict[str, Any] = {"print_callback": output, "os": program.refuse, **outside}
        program.seen = program.source
        value = session.feed_run(f"{program.source}\n\nNone", **common)
        if program.then:
            program.seen += f"\n{program.then}"
            value = session.feed_run(program.then, inputs=dict(program.inputs), **common)
        return value


def judge(program: Program, kind: str, text: str) -> Ended:
    """What an exception says of a program."""
    message = text.removeprefix(f"{kind}: ")
    if program.refused:
        return Ended("unsupported", f"there are no files and no environment: {program.refused[0]}")
    if kind == "SystemExit" and program.stdin is not None:  # which may have printed all that it should
        return Ended("unsupported", "a program cannot end by SystemExit")
    if reason := unsupported(kind, message, program.seen):
        return Ended("unsupported", reason)
    return Ended("slow" if "time limit exceeded" in message else "failed", text)


def read_value(value: object) -> Ended:
    """The number that a program ended with, if it is one."""
    if value is None:
        return Ended("done")
    if not isinstance(value, (int, float)):
        return Ended("failed", short(f"returned {value}, not a number"))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Ended("done", value=number) if math.isfinite(number) else Ended("failed", "returned a number without end")


def tidy(text: str) -> list[str]:
    """The lines as judges of programs compare them: without blanks at their ends, nor empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


def children() -> float:
    """Seconds of a processor that ended processes of this one took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Start processes that have so many seconds of a processor, however they are left behind."""
    before, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (before, most))


def prepare(parent: int, memory: int) -> None:
    """When a worker starts: nothing of the server's environment, no dumps, a bounded address space."""
    die_with(parent)
    os.environ.clear()
    import pydantic_monty  # noqa: F401 - before the limit of memory

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + memory, resource.RLIM_INFINITY))
