"""Frameworks that know nothing of this server: LangChain, and LiteLLM in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.integration.asking import MODEL
from tests.integration.server import ROOT

QUESTION = "What is 17 + 25?"
LITELLM = ROOT / ".venv-litellm" / "bin" / "python"
SKIP_LITELLM = bool(os.environ.get("OUTTHINK_SKIP_LITELLM"))  # read before the tests' environment is cleared


class Verdict(BaseModel):
    """Whether it is so."""

    answer: Literal["yes", "no"]


def model(base_url: str, key: str, name: str = f"{MODEL}@small", **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=name, base_url=base_url, api_key=SecretStr(key), max_completion_tokens=96, max_retries=0, **fields
    )


def test_langchain_invokes_a_preset(base_url: str, key: str) -> None:
    reply = model(base_url, key).invoke(QUESTION)
    assert reply.text
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] > 4
    assert reply.usage_metadata["output_token_details"]["reasoning"] > 0


def test_langchain_passes_a_strategy_in_the_body(base_url: str, key: str) -> None:
    extra = {"strategy": {"type": "best_of_n", "samples": 3, "scorer": "logprob"}}
    reply = model(base_url, key, MODEL, extra_body=extra).invoke(QUESTION)
    assert reply.text
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_token_details"]["reasoning"] > 0


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}@cot", f"{MODEL}@small"])
def test_langchain_streams(base_url: str, key: str, name: str) -> None:
    chunks = list(model(base_url, key, name, stream_usage=True).stream(QUESTION))
    assert "".join(chunk.text for chunk in chunks)
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [usage["output_tokens"] > 0 for usage in usages] == [True]


async def test_langchain_awaits(base_url: str, key: str) -> None:
    assert (await model(base_url, key).ainvoke(QUESTION)).text


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_structured_output_by_vote(base_url: str, key: str, method: Any) -> None:
    options: dict[str, Any] = {"strict": True} if method == "function_calling" else {}
    chain = model(base_url, key).with_structured_output(Verdict, method=method, **options)
    assert isinstance(chain.invoke("Is water wet?"), Verdict)


@pytest.mark.skipif(SKIP_LITELLM, reason="OUTTHINK_SKIP_LITELLM is set")
def test_litellm_completes_streams_and_chooses_strategies(base_url: str, key: str, tmp_path: Path) -> None:
    assert LITELLM.exists(), "`python3 tools/setup.py test` makes .venv-litellm; OUTTHINK_SKIP_LITELLM=1 goes without"
    script = Path(__file__).with_name("litellm_client.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(LITELLM), str(script), base_url, key],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert all(told["texts"].values())
    assert {name: count > 0 for name, count in told["reasoning"].items()} == {
        "plain": False,
        "preset": True,
        "body": True,
        "async": True,
    }
    assert told["unknown"] == "NotFoundError"
