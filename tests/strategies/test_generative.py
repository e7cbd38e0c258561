"""The generative process reward model."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

from service.engines.scripted import Reply
from strategies.scorers.generative import Generative, recent
from strategies.types import Candidate, Chat, Generation
from tests.strategies.support import engine, reviews, says, session


def path(*steps: str, scores: tuple[float, ...] = ()) -> Candidate:
    return Candidate(0, tuple(Generation(step, 2, "step") for step in steps), scores=scores)


async def test_the_score_is_the_probability_of_yes_among_the_two() -> None:
    on = session(says(Reply("Yes", labels={"Yes": log(0.3), "No": log(0.1)})))
    [score] = await Generative().score(on, [path("a\n\n")])
    assert score == pytest.approx((0.75,))


async def test_all_new_steps_are_asked_for_in_one_request() -> None:
    probabilities = {"a": 0.1, "a\n\nb": 0.2, "c": 0.3, "c\n\nd": 0.4, "c\n\nd\n\ne": 0.5}
    on = session(reviews(says(""), lambda solution: probabilities[solution]))
    scores = await Generative().score(on, [path("a\n\n", "b\n\n", scores=(0.9,)), path("c\n\n", "d\n\n", "e")])
    assert [pytest.approx(score) for score in scores] == [(0.9, 0.2), (0.3, 0.4, 0.5)]
    [(prefixes, call)] = engine(on).calls
    assert len(prefixes) == 4
    assert (call.n, call.max_tokens, call.temperature) == (1, 1, 0.0)
    assert on.usage["scorer"].requests == 1
    assert on.usage["scorer"].completion == 4
    assert on.usage["policy"].completion == 0


async def test_nobody_is_asked_about_what_is_scored() -> None:
    on = session(says(""))
    assert await Generative().score(on, [path("a\n\n", scores=(0.5,))]) == [(0.5,)]
    assert engine(on).calls == []


async def test_the_prompt_shows_the_question_and_the_solution_up_to_the_step() -> None:
    on = session(reviews(says(""), lambda solution: 0.5))
    await Generative("judge-7b").score(on, [path("first\n\n", "second\n\n")])
    [(prefixes, call)] = engine(on).calls
    first, second = (engine(on).text(prefix) for prefix in prefixes)
    assert "What is 6 * 7?" in first
    assert "first" in first
    assert "second" not in first
    assert "first\n\nsecond" in second
    assert call.model == "judge-7b"


async def test_a_prompt_too_long_for_the_context_is_shortened_to_its_end() -> None:
    seen: list[str] = []

    def probability(solution: str) -> float:
        seen.append(solution)
        return 0.5

    on = session(reviews(says(""), probability), length=60)
    long = " ".join(f"word{i}" for i in range(99))
    [score] = await Generative().score(on, [path(long)])
    assert score == pytest.approx((0.5,))
    assert seen[0].startswith("[…]")
    assert seen[0].endswith("word98")
    assert on.notes


async def test_messages_of_braces_are_no_fields() -> None:
    chat = Chat(({"role": "user", "content": "What is {x}?"},))
    on: Any = session(reviews(says(""), lambda solution: 0.5), chat=chat)
    assert len(await Generative().score(on, [path("{solution} {0}")])) == 1


async def test_rlhflows_format_is_a_turn_a_step() -> None:
    on = session(says(Reply("+", labels={"+": log(0.6), "-": log(0.2)})))
    [scores] = await Generative(format="rlhflow").score(on, [path("one\n\n", "two\n\n", scores=(0.9,))])
    assert scores == pytest.approx((0.9, 0.75))
    [(prefixes, _)] = engine(on).calls
    assert engine(on).text(prefixes[0]) == "user: What is 6 * 7? one\nassistant: +\nuser: two"


async def test_math_shepherds_format_is_a_tagged_line_a_step() -> None:
    on = session(says(Reply("+", labels={"+": log(0.2), "-": log(0.6)})))
    [scores] = await Generative(format="math_shepherd").score(on, [path("one\nmore ки\n\n", "two\n\n", scores=(0.9,))])
    assert scores == pytest.approx((0.9, 0.25))
    [(prefixes, _)] = engine(on).calls
    assert engine(on).text(prefixes[0]) == "What is 6 * 7? one more ки\ntwo ки"


async def test_a_model_on_a_server_of_its_own_is_asked_there() -> None:
    on, judge = session(says("")), session(reviews(says(""), lambda solution: 0.5))
    [score] = await Generative(engine=judge.engine).score(on, [path("a\n\n")])
    assert score == pytest.approx((0.5,))
    assert engine(on).calls == []
    assert len(engine(judge).calls) == 1
    assert on.usage["scorer"].completion == 1


async def test_the_recent_steps_remain_of_a_long_path() -> None:
    assert recent(["a", "b", "c", "d"], 1) == ["a", "b", "c", "d"]
    assert recent(["a", "b", "c", "d"], 0.5) == ["c", "d"]
    assert recent(["a", "b", "c", "0123456789"], 0.2) == ["[…] 89"]
