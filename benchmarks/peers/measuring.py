"""Running one method: its runner, the engine's own counters before and after, and what was said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Timer
from typing import IO, Any

from service.benchmarks.arithmetic import Problem

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 3600.0
"""After which a method is stopped."""

Counters = Mapping[str, int]
Grade = Callable[[str, str], bool]


class PeerFailed(Exception):
    """A method could not answer the questions; the message is for its row."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of all methods: `count` reads its counters once it is idle, `forget` empties its prefix cache."""

    count: Callable[[], Counters]
    forget: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """The lines of all answers, and what they cost together."""

    answers: Sequence[Mapping[str, Any]]
    seconds: float
    spent: Counters


def measure(
    command: Sequence[str],
    problems: Sequence[Problem],
    engine: Engine,
    log: Path,
    *,
    key: str = "",
    limit: float = MOST_SECONDS,
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """Have a runner answer all questions; raise PeerFailed when it does not. `tick` is called for every answer."""
    with running(command, log, key, limit) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            raise PeerFailed(last_words(log))
        engine.forget()
        before, began = engine.count(), time.perf_counter()
        answers = []
        with suppress(BrokenPipeError):  # it has died, and its log says of what
            process.stdin.writelines(asked(problems))
            process.stdin.close()
        for line in process.stdout:
            answers.append(json.loads(line))
            tick()
        seconds = time.perf_counter() - began
    after = engine.count()
    if len(answers) < len(problems):
        raise PeerFailed(f"ended after {len(answers)} of {len(problems)} questions: {last_words(log)}")
    return Measured(answers, seconds, {name: after[name] - before[name] for name in before})


def asked(problems: Sequence[Problem]) -> Iterator[str]:
    for i, problem in enumerate(problems):
        yield json.dumps({"id": str(i), "question": problem.question}) + "\n"


@contextmanager
def running(command: Sequence[str], log: Path, key: str, limit: float) -> Iterator[subprocess.Popen[str]]:
    """A runner, in a group of its own that ends with the block or after `limit` seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    with log.open("a") as errors:  # to which `end` writes too
        process = start(command, errors, key)
        timer = Timer(limit, end, (process, f"it was stopped after {limit:g} s", log))
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            end(process)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()


def start(command: Sequence[str], errors: IO[str], key: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        cwd=ROOT,
        env={**own, "OPENAI_API_KEY": key, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], why: str = "", log: Path | None = None) -> None:
    """Kill a runner and what it started; its log says why, before anybody can see that it has ended."""
    if log is not None:
        with log.open("a") as file:
            file.write(f"\n{why}\n")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def last_words(log: Path) -> str:
    """The last line that says something, which in a traceback is the error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def row_of(measured: Measured, problems: Sequence[Problem], grade: Grade) -> dict[str, Any]:
    """What is kept of a method. An answer that failed is a wrong one, and where all failed the row is an error."""
    answers = sorted(measured.answers, key=lambda line: int(line["id"]))
    errors = [line["error"] for line in answers if line["error"] is not None]
    if len(errors) == len(answers):
        raise PeerFailed(errors[0])
    marks = [grade(line["text"], p.answer) for line, p in zip(answers, problems, strict=True)]
    return {
        "right": "".join(str(int(mark)) for mark in marks),
        "seconds": round(measured.seconds, 2),
        "median_seconds": round(median(line["seconds"] for line in answers), 3),
        **measured.spent,
        "failed": len(errors),
        "error": errors[0] if errors else None,
    }


def runner_command(python: str, runner: str, method: str, options: Mapping[str, Any]) -> list[str]:
    """The command line of a runner; `options` are those of `runners/asking.py`."""
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [python, "-m", f"benchmarks.peers.runners.{runner}", method, *given]


def make_environment(name: str) -> str:
    """The Python of a peer's environment, which the Makefile makes; raise PeerFailed when it cannot be installed."""
    folder = f".venv-{name}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", folder, f"PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if made.returncode:
        said = [line for line in (made.stdout + made.stderr).splitlines() if line.startswith("ERROR")]
        raise PeerFailed(f"cannot be installed: {said[0] if said else made.stderr.strip()[-300:]}")
    return str(ROOT / folder / "bin" / "python")
