"""Growing paths: where a step ends, what it may cost, and how a search is concluded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from service.engines.scripted import Reply, ScriptedEngine
from strategies.accounting import Budget
from strategies.errors import BudgetSpent, EngineUnavailable
from strategies.scorers.generative import Generative
from strategies.select import fold
from strategies.session import Session
from strategies.steps import Step, conclude, cut, ended, grow, reserve, room_left, root
from strategies.types import OPEN, Aggregate, Candidate, Generation, Ids
from tests.strategies.support import CHAT, engine, reviews, says, session, turn

STEP = Step(max_tokens=8)


def asking(*replies: Reply | str, **fields: Any) -> Session:
    """A session whose scorer finds everything half right."""
    script = reviews(says(*replies), lambda text: 0.5)
    return session(script, scorer=Generative(), chat=replace(CHAT, fields=fields), pause=turn)


def path(text: str = "a\n\n", tokens: int = 2, finish: str = OPEN, **more: Any) -> Candidate:
    return Candidate(more.pop("id", 0), (Generation(text, tokens, finish),), **more)


@pytest.mark.parametrize(("how", "folded"), [("last", 0.5), ("min", 0.2), ("prod", 0.04), ("mean", 1.1 / 3)])
def test_scores_of_steps_become_one(how: Aggregate, folded: float) -> None:
    assert fold([0.4, 0.2, 0.5], how) == pytest.approx(folded)


@pytest.mark.parametrize(
    ("generation", "room", "finish"),
    [
        (Generation("a\n\n", 3, "stop", "\n\n"), 9, OPEN),
        (Generation("a\n\n", 3, "stop", "\n\n"), 3, "length"),  # nothing is left of `max_tokens`
        (Generation("a", 8, "length"), 9, OPEN),  # a full step
        (Generation("a", 8, "length"), 8, "length"),
        (Generation("a", 5, "length"), 9, "length"),  # the budget cut it
        (Generation("a", 3, "stop"), 9, "stop"),
        (Generation("a", 3, "stop", 7), 9, "stop"),  # a stop token
        (Generation("a END", 3, "stop", "END"), 9, "stop"),
    ],
)
def test_the_reason_that_a_path_ended(generation: Generation, room: int, finish: str) -> None:
    end = ended(asking("", stop="END"), generation, STEP, room)
    assert end.finish_reason == finish
    assert "END" not in end.text


def test_the_callers_stop_ends_the_answer_also_where_it_is_the_delimiter() -> None:
    end = ended(asking("", stop=["\n\n"]), Generation("a\n\n", 3, "stop", "\n\n"), STEP, 9)
    assert (end.text, end.finish_reason) == ("a", "stop")


async def test_a_step_is_asked_for_with_the_callers_fields() -> None:
    on = asking("b\n\n", temperature=0.3, top_k=5, min_tokens=20, stop="END", n=3, max_tokens=100)
    await grow(on, [root(), path()], 2, [STEP, None])
    first, second = (call for _, call in engine(on).calls)
    assert first.stop == ("\n\n", "END")
    assert second.stop == ("END",)
    assert (first.max_tokens, second.max_tokens) == (8, 98)
    assert first.fields == {"temperature": 0.3, "top_k": 5, "min_tokens": 8}  # vLLM refuses more than max_tokens
    assert second.fields["min_tokens"] == 18


async def test_a_path_has_what_the_caller_allows_within_the_context() -> None:
    prompt = len(await asking("").prompt())
    assert await room_left(asking("", max_tokens=10), path()) == 8
    assert await room_left(session(says(""), length=prompt + 5), root()) == 5


async def test_children_are_numbered_in_the_order_of_their_parents() -> None:
    on = asking("x\n\n", "y\n\n")
    families = await grow(on, [path(id=5), path(id=6)], 2, [STEP, STEP])
    assert [[(child.id, child.parent) for child in family] for family in families] == [
        [(0, 5), (1, 5)],
        [(2, 6), (3, 6)],
    ]
    assert families[0][1].text == "a\n\ny\n\n"


async def test_the_text_of_an_open_path_is_that_of_its_ids() -> None:
    """The token that ended the step reaches beyond the delimiter."""

    class Wide(ScriptedEngine):
        async def detokenize(self, ids: Ids, model: str | None = None) -> str:
            return self.text(ids) + "> "

    on = replace(asking(""), engine=Wide(says("b\n\n"), turn))
    [[child]] = await grow(on, [root()], 1, [STEP])
    assert child.text == "b\n\n> "


async def test_a_branch_that_found_the_budget_spent_does_not_take_the_others() -> None:
    """On an engine that never waits the first branch spends it all before the second begins."""
    on = session(says("one two three four five six\n\n"), budget=Budget(tokens=6), interval=1)
    families = await grow(on, [path(id=0), path(id=1)], 1, [STEP, STEP])
    assert [[(child.last.tokens, child.last.finish_reason) for child in family] for family in families] == [
        [(5, "length")],
        [(0, "length")],
    ]
    assert on.stopped == "tokens"


@pytest.mark.parametrize(("tokens", "kept"), [(None, 256), (10_000, 256), (100, 25), (3, 0)])
def test_a_quarter_of_a_small_budget_is_kept_for_the_end(tokens: int | None, kept: int) -> None:
    assert reserve(session(says(""), budget=Budget(tokens=tokens))) == kept


# The end


async def ending(on: Session, finished: Sequence[Candidate], frontier: Sequence[Candidate]) -> list[tuple[str, str]]:
    last = await conclude(on, finished, frontier, "best", None)
    return [(c.text, c.last.finish_reason) for c in last.ranked]


async def test_the_best_unfinished_path_is_completed() -> None:
    frontier = [path("a\n\n", id=8, score=0.2), path("b\n\n", id=9, score=0.9)]
    found = await ending(asking("The answer is 42."), [], frontier)
    assert found == [("b\n\nThe answer is 42.", "stop"), ("b\n\n", "length"), ("a\n\n", "length")]


async def test_nothing_is_completed_where_an_answer_is() -> None:
    on = asking("The answer is 42.")
    done = path("The answer is 1.", finish="stop", id=3, score=0.1)
    assert await ending(on, [done], [path(score=0.9)]) == [("The answer is 1.", "stop")]
    assert engine(on).calls == []


async def test_a_path_with_room_is_completed_rather_than_a_better_one_without() -> None:
    on = asking("The answer is 42.", max_tokens=6)
    full = path("full", 6, "length", score=0.9)
    found = await ending(on, [full], [path("a\n\n", 2, id=1, score=0.1)])
    assert found[0] == ("a\n\nThe answer is 42.", "stop")


async def test_every_step_of_a_completed_path_is_scored() -> None:
    last = await conclude(
        asking("It is 6 * 7.\n\nThe answer is 42."), [], [path(scores=(0.9,), score=0.9)], "best", "min"
    )
    assert last.ranked[0].scores == pytest.approx((0.9, 0.5))
    assert last.ranked[0].score == pytest.approx(0.5)


async def test_a_completion_that_cannot_be_scored_is_the_answer_nonetheless() -> None:
    def script(prompt: str, index: int) -> Reply | str:
        return Reply("", error=EngineUnavailable("gone")) if "Reply Yes or No." in prompt else "It is 42."

    on = replace(asking(), engine=ScriptedEngine(script))
    assert await ending(on, [], [path()]) == [("a\n\nIt is 42.", "stop"), ("a\n\n", "length")]
    assert on.failures == ["gone"]


async def test_a_completion_that_failed_leaves_what_there_is() -> None:
    on = asking(Reply("The", error=EngineUnavailable("gone")))
    assert await ending(on, [], [path()]) == [("a\n\n", "length")]
    assert on.failures == ["gone"]


async def test_a_search_without_a_step_has_no_end() -> None:
    with pytest.raises(BudgetSpent):
        await conclude(asking(""), [], [], "best", None)


def test_an_open_path_that_is_returned_was_cut() -> None:
    assert cut(path()).last.finish_reason == "length"
    assert cut(path(finish="stop")) == path(finish="stop")
