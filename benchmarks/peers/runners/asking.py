"""What the runners share: the same arguments, the same number of questions at a time, the same lines of JSON.

A runner asks one question that is not counted, so that nobody's first connection and first import is measured, writes
`{"ready": true}`, reads a line `{"id", "question"}` for each question until its standard input ends, and writes a line
`{"id", "text", "seconds", "error"}` for each answer as it comes. Whatever a peer prints goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

Ask = Callable[[str], Awaitable[str]]

REQUEST_SECONDS = 1200.0
START_SECONDS = 300.0
WARM_UP = (
    "Start with 1, then add 1. What is the result? Write one equation for each step, then put the answer in \\boxed{}."
)
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy of the environment: all of this is on one machine."""


@dataclass(frozen=True)
class Task:
    """What to ask whom, and how. `body` is what a method that is asked by HTTP wants in its request."""

    method: str
    url: str
    key: str
    model: str
    samples: int
    max_tokens: int
    step_tokens: int
    temperature: float
    at_once: int
    body: Mapping[str, Any]


def read_task() -> Task:
    """The task of the command line; the engine's key comes in OPENAI_API_KEY, where no other user can read it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    for name in ("--url", "--model"):
        parser.add_argument(name, required=True)
    for name in ("--samples", "--max-tokens", "--step-tokens", "--at-once"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    parser.add_argument("--body", type=json.loads, default={})
    return Task(**vars(parser.parse_args()), key=os.environ.get("OPENAI_API_KEY", ""))


@contextmanager
def own_output() -> Iterator[TextIO]:
    """The standard output for our lines alone: what anybody prints goes to standard error."""
    ours, sys.stdout = sys.stdout, sys.stderr
    try:
        yield ours
    finally:
        sys.stdout = ours


async def answer_questions(task: Task, ask: Ask) -> None:
    """Answer the questions of the standard input, so many at a time."""
    places = asyncio.Semaphore(task.at_once)
    with own_output() as out:

        def say(line: Mapping[str, Any]) -> None:
            print(json.dumps(line), file=out, flush=True)

        async def answer(line: Mapping[str, str]) -> None:
            async with places:
                say({"id": line["id"], **await attempt(ask, line["question"])})

        await attempt(ask, WARM_UP)
        say({"ready": True})
        lines = await asyncio.to_thread(sys.stdin.readlines)
        await asyncio.gather(*(answer(json.loads(line)) for line in lines))


async def attempt(ask: Ask, question: str) -> dict[str, Any]:
    """The text, or the first line of the error, and the seconds that it took."""
    began = time.perf_counter()
    text, error = "", None
    try:
        text = await ask(question)
    except Exception as raised:  # a peer's own, of whatever type
        error = first_line(f"{type(raised).__name__}: {raised}")
    return {"text": text, "seconds": time.perf_counter() - began, "error": error}


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]


def ask_by_http(task: Task, url: str, body: Mapping[str, Any]) -> Ask:
    """Ask an endpoint for a chat completion, with `body` beside what all methods have in common."""
    common = {"model": task.model, "max_tokens": task.max_tokens, "temperature": task.temperature, **body}

    async def ask(question: str) -> str:
        asked = {**common, "messages": [{"role": "user", "content": question}]}
        return read_reply(await asyncio.to_thread(post, f"{url}/chat/completions", asked, task.key))

    return ask


def read_reply(reply: Mapping[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"] or "")


def post(url: str, body: Mapping[str, Any], key: str) -> Any:
    """The reply's JSON; raise RuntimeError with what the server said when it is an error."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with DIRECT.open(request, timeout=REQUEST_SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code} {error.read().decode(errors='replace')}") from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], health: str, environment: Mapping[str, str], folder: str = ".") -> Iterator[None]:
    """A peer's own server while the block runs; it is ready when GET `health` answers 200."""
    own = {**os.environ, **environment}
    process = subprocess.Popen(command, env=own, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        wait(process, health)
        yield
    finally:
        process.terminate()
        process.wait()


def wait(process: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} exited with {process.returncode}")
        with suppress(OSError):
            DIRECT.open(health, timeout=5).close()
            return
        time.sleep(0.2)
    raise TimeoutError(f"{health} was not ready after {START_SECONDS:g} s")
