"""Whatever is sent, no 5xx of our own, no undocumented status, and nothing that breaks its own description.

The cases come from the service's OpenAPI description, the same ones in every run. `make fuzz` asks for many more.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast, get_args

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from service.app import create_app
from service.engines.vllm.stream import ReplyStream, split
from service.settings import Settings
from strategies import answers
from strategies.answers import AnswerType
from strategies.branch import Branch
from strategies.logprobs import Logprobs
from strategies.scorers.confidence import Logprob, SelfCertainty
from tests.conftest import outthink
from tests.faulty import FaultyVllm
from tests.service.test_faults import said

KEYS = ("index", "name", "arguments", "function", "token", "logprob", "top_logprobs", "content", "message", "code")
PIECES = (
    "\\boxed{",
    "}",
    "{",
    "the answer is ",
    "42",
    "-",
    "1/2",
    "\\frac",
    "$",
    "(B)",
    "\n\n",
    "```json",
    "[",
    "1e9999",
)
KINDS: tuple[AnswerType, ...] = get_args(AnswerType)
EXAMPLES = int(os.environ.get("OUTTHINK_TEST_EXAMPLES", "10"))
LIMITS = {"max_samples": 8, "max_branches": 64, "default_budget_seconds": 5.0, "max_budget_seconds": 5.0}
CHECKED: list[Any] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service before a vLLM of words, in a thread of its own, since the cases are sent from this one."""
    found, done = threading.Event(), asyncio.Event()
    told: list[str] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        engine = FaultyVllm(said)
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ours: dict[str, Any] = {"data_dir": tmp_path_factory.mktemp("fuzz"), "retries": 0, **LIMITS}
        settings = Settings(engine_url=f"http://127.0.0.1:{port}", **ours)
        async with server, outthink(settings=settings) as client:
            told.append(str(client.base_url))
            found.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert found.wait(120)
    yield told[0]
    loop.call_soon_threadsafe(done.set)
    thread.join(120)
    loop.close()


many = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


def operations() -> list[Any]:
    """Every operation that the service describes."""
    described = create_app(Settings.model_construct(), manage=False).openapi()
    found: list[Any] = [told.ok() for told in cast(Any, schemathesis.openapi.from_dict(described)).get_all_operations()]
    return [
        pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")
        for operation in found
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.body  # nothing is wrong with a GET that says nothing
    ]


@pytest.mark.parametrize(("operation", "mode"), operations())
def test_every_case_is_answered_as_described(url: str, operation: Any, mode: GenerationMode) -> None:
    """Bodies that fit the description, and bodies that do not."""

    @many
    @given(operation.as_strategy(generation_mode=mode))
    def answered(case: Any) -> None:
        reply = case.call(base_url=url, timeout=120)
        assert reply.status_code not in (500, 501), reply.text
        case.validate_response(reply, checks=CHECKED)

    answered()


# Replies of an engine

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 40) | st.floats(allow_nan=False) | st.sampled_from(["", "a", "stop"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
CHOICE = st.fixed_dictionaries(
    {"index": st.integers(0, 2) | JSON},
    optional={
        "delta": st.fixed_dictionaries({}, optional={"content": st.text(max_size=3) | JSON, "tool_calls": JSON}) | JSON,
        "text": st.text(max_size=3) | JSON,
        "finish_reason": st.sampled_from(["stop", "length", None]) | JSON,
        "stop_reason": JSON,
        "token_ids": st.lists(st.integers(0, 9), max_size=3) | JSON,
        "logprobs": JSON,
    },
)
EVENT = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=3) | JSON},
    optional={
        "usage": st.fixed_dictionaries(
            {"prompt_tokens": st.just(7) | JSON, "completion_tokens": st.integers(0, 9) | JSON}
        )
        | JSON,
        "error": JSON,
    },
)


def branch_of(scorer: Logprob | SelfCertainty) -> Branch:
    return Branch(Logprobs(), scorer.confidence)


REPLY = st.lists(
    EVENT.map(lambda event: orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS)) | st.binary(max_size=9), max_size=6
)


@many
@given(REPLY, st.sampled_from([None, 14]), st.data())
def test_a_reply_of_any_shape_is_read_or_refused_and_counted_once(
    events: Sequence[bytes], prompt: int | None, data: st.DataObject
) -> None:
    """However its events are bunched: the same tokens, none taken back, and messages that can be put together."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=3)))
    totals = []
    for places in ([], cuts):
        reply, branches = ReplyStream(2, 2, prompt), [branch_of(Logprob()), branch_of(SelfCertainty())]
        for start, end in pairwise([0, *places, len(events)]):
            for delta in reply.take(events[start:end]).deltas:
                assert branches[delta.index].take(delta) >= 0
            if reply.fault:
                break
        assert [branch.tokens for branch in branches] == reply.totals
        for branch in branches:
            orjson.dumps(branch.generation().message)
            orjson.dumps(list(branch.generation().logprobs))
        totals.append((reply.totals, type(reply.fault)))
    assert totals[0] == totals[1]


@many
@given(
    st.lists(
        st.sampled_from(["data: {}", "data: [DONE]", ": x", "\n\n", "\n", "\r\n", "data:", '{"a": 1}']), max_size=12
    )
)
async def test_a_stream_cut_anywhere_is_read_alike(parts: Sequence[str]) -> None:
    raw = "".join(parts).encode()
    read = []
    for size in (1, 3, len(raw) or 1):
        chunks = [raw[i : i + size] for i in range(0, len(raw), size)]
        read.append([event async for events in split(aiter_of(chunks)) for event in events])
    assert read[0] == read[1] == read[2]


async def aiter_of(chunks: Sequence[bytes]) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        yield chunk


# Answers


@many
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(KINDS))
def test_any_text_is_read_to_an_answer_or_none(text: str, kind: AnswerType) -> None:
    found = answers.read(text, kind)
    assert found is None or found.strip()
