"""A scripted model of arithmetic: right or wrong by a hash of the question and the branch, sometimes silent."""

from __future__ import annotations

import re
from random import Random

from service.engines.scripted import Reply

HOSTILE = '<script>alert("x")</script>'


def sums(prompt: str, branch: int) -> Reply | str:
    """What a weak model would say to a question of the generated arithmetic."""
    random = Random(repr((prompt, branch)))
    if "correct so far" in prompt or "Grade an answer" in prompt:
        return Reply("3", labels={label: -random.random() for label in "12345"})
    value = result(prompt)
    chance = random.random()
    if chance < 0.15:
        return "I do not know"
    if chance < 0.25:
        return Reply(f"{HOSTILE} and so on", finish_reason="length")
    guess = value if chance < 0.7 else value + random.choice([1, 2])
    return Reply(f"{HOSTILE} so\n\n\\boxed{{{guess}}}", logprob=-random.random())


def result(prompt: str) -> int:
    """What the question's steps come to."""
    match = re.search(r"Start with (\d+)(.*?)\.", prompt)
    assert match is not None, prompt
    value = int(match[1])
    for operation, operand in re.findall(r"then (add|subtract) (\d+)", match[2]):
        value += int(operand) if operation == "add" else -int(operand)
    return value
