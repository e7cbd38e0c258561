"""Every file in examples/ runs, against the server, as somebody who has just started it would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.integration.server import ROOT

EXAMPLES = ROOT / "examples"
EXPECTED = {
    "openai_sdk.py": r"answer: .+\n(?s:.*)usage:  [1-9]\d* tokens in [\d.]+ s\n$",
    "streaming.py": r".+\n[1-9]\d* tokens, and 8 of the judge\n$",
    "langchain_chat.py": r"smollm2@best_of_4: .+\n(?s:.*)self_consistency: .+\n(?s:.*)usage: \{'input_tokens'",
    "offline.py": r"^answer: 17 \+ 25 = 42, so .+\n  4 votes for 42\n  2 votes for 41\nusage:  \d+ tokens\n$",
}


def ran(command: list[str], base_url: str, key: str) -> subprocess.CompletedProcess[str]:
    own = {"OUTTHINK_URL": base_url, "OUTTHINK_API_KEY": key, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env={**os.environ, **own}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def test_every_example_is_tested() -> None:
    trains = "post_training_loop.py"  # in test_training.py
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*EXPECTED, "curl.sh", trains}


@pytest.mark.parametrize("name", EXPECTED)
def test_example_prints_what_it_promises(base_url: str, key: str, name: str) -> None:
    done = ran([sys.executable, str(EXAMPLES / name)], base_url, key)
    assert re.search(EXPECTED[name], done.stdout), done.stdout
    if name == "streaming.py":
        assert re.search(r"^round 2: 8 answers finished, 0 in the making, [1-9]\d* tokens", done.stderr, re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="this machine has no curl")
def test_curl_example_prints_strategies_a_plan_and_an_answer(base_url: str, key: str) -> None:
    lines = ran(["sh", str(EXAMPLES / "curl.sh")], base_url, key).stdout.splitlines()
    strategies, plan, completion = map(json.loads, lines)
    assert {strategy["type"] for strategy in strategies["data"]} >= {"self_consistency", "best_of_n"}
    assert plan["unbounded_tokens"]["policy"] == 8 * 60
    assert completion["outthink"]["strategy"]["samples"] == 8
