"""Tree search against a straightforward sequential one."""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from math import sqrt

import pytest

from service.engines.scripted import Reply
from strategies.mcts import MCTS, Node, merge
from strategies.scorers.generative import Generative
from strategies.session import Session
from strategies.steps import root
from strategies.types import Candidate, Generation
from tests.strategies.support import candidate, engine, finished, grown, reviews, session, turn

DEPTH = 3


def policy(prompt: str, index: int) -> Reply | str:
    """Three steps of a letter each, and an answer, which is the same for all of a family."""
    left = DEPTH - grown(prompt).count("\n\n")
    return f"{'abc'[index % 3]}\n\n" * left + "The answer is 42."


def worth(solution: str) -> float:
    return blake2b(solution.encode(), digest_size=1).digest()[0] / 256


def on_tree() -> Session:
    return session(reviews(policy, worth), scorer=Generative(), pause=turn)


Path = tuple[str, ...]


def sequential(iterations: int, width: int, c: float) -> tuple[dict[str, int], dict[str, float]]:
    """Visits and mean values by text, of a search that expands one leaf at a time."""
    children: dict[Path, list[Path]] = {}
    visits: dict[Path, int] = defaultdict(int)
    totals: dict[Path, float] = defaultdict(float)

    def open_(path: Path) -> bool:
        return any(map(open_, children[path])) if path in children else len(path) <= DEPTH

    def puct(path: Path) -> float:
        siblings = children[path[:-1]]
        return totals[path] / visits[path] + c / len(siblings) * sqrt(visits[path[:-1]]) / (1 + visits[path])

    for _ in range(iterations):
        if not open_(()):
            break
        path: Path = ()
        while path in children:
            path = max(filter(open_, children[path]), key=puct)
        said = ["The answer is 42."] if len(path) == DEPTH else [f"{letter}\n\n" for letter in "abc"[:width]]
        children[path] = [(*path, step) for step in said]
        for child in children[path]:
            for depth in range(len(child) + 1):
                visits[child[:depth]] += 1
                totals[child[:depth]] += worth("".join(child).strip())
    texts = {"".join(path): path for path in visits if path}
    return {t: visits[p] for t, p in texts.items()}, {t: totals[p] / visits[p] for t, p in texts.items()}


@pytest.mark.parametrize("iterations", [1, 2, 5, 13, 30, 60])
@pytest.mark.parametrize("exploration", [0.0, 1.25, 10.0])
async def test_one_leaf_at_a_time_it_is_the_sequential_search(iterations: int, exploration: float) -> None:
    on = on_tree()
    await finished(MCTS(iterations=iterations, width=3, wave=1, exploration=exploration), on)
    visits, values = sequential(iterations, 3, exploration)
    known = {path.text: path for path in on.tree.values() if path.visits is not None}
    assert {text: path.visits for text, path in known.items()} == visits
    assert {text: path.value for text, path in known.items()} == pytest.approx(values)


async def test_an_exhausted_tree_ends_the_search() -> None:
    on = on_tree()
    outcome, _ = await finished(MCTS(iterations=1000, width=2, wave=4), on)
    assert outcome.stopped_by == "complete"
    expanded = 1 + 2 + 4 + 8  # the root and all steps; answers are not expanded
    assert len([call for _, call in engine(on).calls if not call.label_ids]) == expanded
    assert len(outcome.round.candidates) == 8  # the two answers of a family are one
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("42", 8)]


def tree(*scores: float, finish: str = "step") -> Node:
    top = Node(root(), expanded=True)
    steps = [candidate(i, text=str(i), finish_reason=finish, score=score) for i, score in enumerate(scores)]
    top.children = [Node(step, top) for step in steps]
    for child, score in zip(top.children, scores, strict=True):
        child.back_up(score)
    return top


def test_puct_of_a_hand_computed_case() -> None:
    top = tree(0.5, 0.9)
    assert MCTS(exploration=2.0).puct(top.children[0]) == pytest.approx(0.5 + 2 * 0.5 * sqrt(2) / 2)


def test_virtual_losses_are_undone() -> None:
    top = tree(0.5, 0.6, 0.7)
    before = [(node.visits, node.total) for node in (top, *top.children)]
    chosen = MCTS().select_leaves(top, 3)
    assert [node.path.id for node in chosen] == [2, 1, 0]
    assert [(node.visits, node.total) for node in (top, *top.children)] == before
    assert top.visits == sum(child.visits for child in top.children)


def test_a_virtual_loss_sends_the_next_elsewhere() -> None:
    top = tree(0.9, 0.85)
    best = top.children[0]
    best.expanded = True
    best.children = [Node(candidate(i, text=str(i), finish_reason="step"), best) for i in (10, 11)]
    for child in best.children:
        child.back_up(0.9)
    assert [node.path.id for node in MCTS(exploration=0.0).select_leaves(top, 2)] == [10, 1]


def test_a_wave_has_distinct_leaves_and_no_closed_ones() -> None:
    top = tree(0.1, 0.2, 0.3)
    top.children.append(Node(candidate(3, text="end", score=0.99), top))
    top.children[3].back_up(0.99)
    chosen = MCTS().select_leaves(top, 9)
    assert sorted(node.path.id for node in chosen) == [0, 1, 2]
    assert MCTS().select_leaves(tree(0.5, 0.6, finish="stop"), 3) == []


def test_equal_siblings_are_one() -> None:
    family = [candidate(i, text=text) for i, text in enumerate("abab")]
    assert [child.id for child in merge(family)] == [0, 1]


async def test_visits_add_up_in_waves() -> None:
    on = on_tree()
    await finished(MCTS(iterations=12, width=3, wave=4), on)
    nodes = {path.id: path for path in on.tree.values() if path.visits}
    below: dict[int, int] = defaultdict(int)
    for path in nodes.values():
        if path.parent is not None:
            below[path.parent] += path.visits or 0
    assert all(path.visits == 1 + below[id] for id, path in nodes.items())


async def test_rollouts_count_as_answers() -> None:
    on = on_tree()
    outcome, _ = await finished(MCTS(iterations=1, width=3, value="rollout"), on)
    answers = outcome.round.candidates
    assert [path.text.count("\n\n") for path in answers] == [3, 3, 3]
    assert all(path.complete for path in answers)
    assert [call.temperature for _, call in engine(on).calls if not call.label_ids] == [None, 0.0, 0.0, 0.0]
    assert {path.value for path in on.tree.values() if path.visits} == {path.score for path in answers}


def test_the_root_is_open_and_an_expanded_leaf_without_children_is_closed() -> None:
    assert not Node(root()).closed
    assert Node(root(), expanded=True).closed
    assert Node(Candidate(0, (Generation("x", finish_reason="length"),))).closed
