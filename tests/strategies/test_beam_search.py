"""Beam search by hand, and DVTS as independent beam searches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import pytest

from service.engines.scripted import Reply, Script, ScriptedEngine
from strategies.beam_search import BeamSearch, Tree
from strategies.errors import InvalidParameter
from strategies.scorers.generative import Generative
from strategies.seeds import derive
from strategies.types import Batch, Call, Candidate, Ids
from tests.strategies.support import candidate, engine, finished, grown, reviews, session, turn


def worth(solution: str) -> float:
    return blake2b(solution.encode(), digest_size=1).digest()[0] / 256


def policy(prompt: str, index: int) -> Reply | str:
    """Three steps, each a letter for its branch, and an answer."""
    left = 3 - grown(prompt).count("\n\n")
    return f"{'abcdefgh'[index]}\n\n" * left + f"The answer is {index}."


@pytest.mark.parametrize(("beams", "width", "trees"), [(8, 3, 1), (4, 4, 2), (16, 4, 8)])
def test_beams_must_be_a_multiple_of_width_times_trees(beams: int, width: int, trees: int) -> None:
    with pytest.raises(InvalidParameter) as caught:
        BeamSearch(beams=beams, width=width, trees=trees)
    assert caught.value.param == "strategy.beams"


def children(*scores: float | None) -> list[Candidate]:
    """Open paths of these scores; None is a finished one."""
    return [
        candidate(i, text=str(i), score=score or 0.5, finish_reason="stop" if score is None else "step")
        for i, score in enumerate(scores)
    ]


def test_the_best_unfinished_paths_go_on_and_finished_ones_leave() -> None:
    tree = Tree([], [])
    BeamSearch(beams=8, width=4).prune(tree, children(0.3, None, 0.9, 0.4, 0.9))
    assert [path.id for path in tree.frontier] == [2, 4]
    assert [path.id for path in tree.finished] == [1]


def test_ties_go_to_the_first() -> None:
    tree = Tree([], [])
    BeamSearch(beams=4, width=2).prune(tree, children(0.5, 0.5, 0.5))
    assert [path.id for path in tree.frontier] == [0, 1]


def test_a_tree_with_enough_finished_paths_ends() -> None:
    tree = Tree([], children(None, None, None))
    BeamSearch(beams=4, width=2).prune(tree, children(0.9, None))
    assert tree.frontier == []
    assert len(tree.finished) == 4


async def test_a_search_by_hand() -> None:
    """N = 4, M = 2: of a, b, c, d the best two go on by two steps each, and so on."""
    values = {"a": 0.1, "b": 0.6, "c": 0.2, "d": 0.7, "b\n\na": 0.9, "b\n\nb": 0.3, "d\n\na": 0.5, "d\n\nb": 0.4}
    script = reviews(policy, lambda solution: values.get(solution, 0.5))
    on = session(script, scorer=Generative(), pause=turn)
    _, rounds = await finished(BeamSearch(beams=4, width=2), on)
    assert {path.text for path in rounds[0].candidates} == {"b\n\n", "d\n\n"}
    assert {path.text for path in rounds[1].candidates} == {"b\n\na\n\n", "d\n\na\n\n"}
    ends = rounds[-1].candidates
    assert len(ends) == 4
    assert len({path.id for path in ends}) == len({path.text for path in ends}) == 4
    sent = [(call.n, len(prefixes)) for prefixes, call in engine(on).calls if not call.label_ids]
    assert sent == [(4, 1)] + [(2, 1)] * 6


async def test_lookahead_scores_the_continuation_and_keeps_the_step() -> None:
    """`a` looks bad and leads to good, `b` the other way round; the greedy branch says `a`."""
    values = {"a": 0.1, "a\n\na": 0.9, "b": 0.9, "b\n\na": 0.2}
    script = reviews(policy, lambda solution: values.get(solution, 0.5))
    for lookahead, kept in ((0, "b\n\n"), (1, "a\n\n")):
        on = session(script, scorer=Generative(), pause=turn)
        _, rounds = await finished(BeamSearch(beams=2, width=2, lookahead=lookahead), on)
        [path] = rounds[0].candidates
        assert path.text == kept
        assert path.score == pytest.approx(0.9)
        assert len(path.scores) == len(path.steps) == 1
        assert path.id in on.tree


# DVTS

TREES = 3


@dataclass(slots=True)
class Rooted(ScriptedEngine):
    """Shows the script the tree of a first step, which the seed of the call tells, in place of the conversation."""

    def extend(self, prefixes: Sequence[Ids], call: Call) -> AsyncGenerator[Batch]:
        self.calls.append((prefixes, call))
        roots = {derive(7, "step", -1, i): f"<{i}>" for i in range(TREES)}
        return self.stream([roots.get(call.seed, "") + self.text(prefix) for prefix in prefixes], call)


def of_tree(number: int | None) -> Script:
    """A policy whose first steps name their tree: that of the seed, or this one."""

    def script(prompt: str, index: int) -> Reply | str:
        path = grown(prompt)
        mark = "" if path else f"tree {prompt[1] if number is None else number} "
        return mark + str(policy(prompt, index))

    return reviews(script, worth)


async def test_dvts_is_as_many_independent_beam_searches() -> None:
    async def found(strategy: BeamSearch, tree: int | None) -> list[str]:
        on = session(of_tree(tree), scorer=Generative())
        outcome, _ = await finished(strategy, replace(on, engine=Rooted(of_tree(tree), turn)))
        return sorted(path.text for path in outcome.round.candidates)

    together = await found(BeamSearch(beams=4 * TREES, width=4, trees=TREES), None)
    apart = [await found(BeamSearch(beams=4, width=4), tree) for tree in range(TREES)]
    assert together == sorted(text for texts in apart for text in texts)
    assert len(together) == 4 * TREES
