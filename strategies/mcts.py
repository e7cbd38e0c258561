"""Monte-Carlo tree search over steps: PUCT selection (Silver et al., 2017; for language models AlphaMath, Chen et al.,
2024, arXiv:2405.03553), with waves of leaves under virtual loss.

Deviations: priors are uniform; every child is valued when it is made, so that one simulation adds `width` visits; equal
siblings are merged; a subtree with nothing left to try is closed and never visited again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Literal

from strategies.errors import BudgetSpent, EngineError
from strategies.knobs import knob
from strategies.select import score
from strategies.session import Session, Strategy
from strategies.steps import (
    UNSUPPORTED,
    Select,
    Step,
    Watch,
    conclude,
    for_families,
    for_open,
    grow,
    grow_greedily,
    reserve,
    root,
    score_paths,
    so_far,
    until_spent,
    with_score_ahead,
)
from strategies.stopping import Never, Stop, check_scorer, check_search
from strategies.types import Aggregate, Candidate, Event, Plan, Scorer


@dataclass(slots=True)
class Node:
    """A path in the tree. `visits` and `total` are of its own value and of all below it."""

    path: Candidate
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    expanded: bool = False

    @property
    def value(self) -> float:
        """Q: the mean of what was backed up, in [0, 1]."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def closed(self) -> bool:
        """Whether there is nothing left to try here: an ended path, or only closed children."""
        if not self.expanded:
            return bool(self.path.steps) and not self.path.open
        return all(child.closed for child in self.children)

    def lineage(self) -> Iterator[Node]:
        """This node and its ancestors, up to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def back_up(self, value: float, visits: int = 1) -> None:
        """Add a value, or with negative `visits` take it back, here and in every ancestor."""
        for node in self.lineage():
            node.visits += visits
            node.total += value


@dataclass(frozen=True, slots=True)
class MCTS(Strategy):
    """Grow a tree of steps where the scorer's values and the number of visits say it is worth it.

    1. Select a wave of leaves, each by PUCT from the root; one that was chosen counts as a lost visit (virtual loss)
       until its value is known, so that the next choice goes elsewhere.
    2. Sample `width` next steps of every leaf, all at once, and merge equal ones.
    3. Value the children, all at once: by their scores, or by those of rollouts to the end of the answer.
    4. Back the values up, and go back to 1, until `iterations` leaves were expanded or the tree is exhausted.

    Under a rule (`stop`) it ends as soon as the finished paths decide it (strategies/steps.py).
    """

    type: ClassVar[str] = "mcts"
    summary: ClassVar[str] = "Tree search over steps: visits and a scorer's values say which path to grow next."
    paper: ClassVar[str] = "https://arxiv.org/abs/2405.03553"
    cost: ClassVar[str] = "iterations × width × step, a request a leaf, wave leaves at once; plus a score a step"
    unsupported: ClassVar[frozenset[str]] = UNSUPPORTED
    text_only: ClassVar[bool] = True
    temperature_default: ClassVar[float | None] = 0.8
    size_knob: ClassVar[str | None] = "iterations"

    iterations: int = knob(32, "Leaves to expand.", ge=1, le=1024)
    width: int = knob(4, "Next steps sampled of a leaf.", ge=1, le=64)
    wave: int = knob(4, "Leaves expanded at once.", ge=1, le=64)
    exploration: float = knob(1.25, "c of PUCT: Q + c · P · sqrt(N_parent) / (1 + N).", ge=0, le=100)
    max_steps: int = knob(20, "Most steps of an answer.", ge=1, le=256)
    step: Step = knob(Step(), "Where a step ends.")
    value: Literal["scorer", "rollout"] = knob("scorer", "Value a step by its score, or by its greedy rollout's.")
    scorer: str | dict[str, Any] = knob("generative", "Who scores the steps.")
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    select: Select = knob("weighted_vote", "Highest score, or highest sum of scores of an answer.")
    stop: Stop = knob(Never(), "When to end the search before its time: `none` or `verified`.")

    def __post_init__(self) -> None:
        check_search(self.stop, self.iterations * self.width)

    @property
    def breadth_knob(self) -> str:
        return "wave"

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        children = self.iterations * self.width
        step = max_tokens if self.value == "rollout" else min(self.step.max_tokens, max_tokens)
        judgements = scorer.tokens(children * (2 if self.value == "rollout" else 1)) if scorer else 0
        return Plan(self.iterations, self.wave * self.width, children * step + max_tokens, judgements)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        tree = Node(root())
        finished: list[Candidate] = []
        nodes: list[Node] = []
        with until_spent(session, lambda: finished):
            left = self.iterations
            while left > 0 and (leaves := self.select_leaves(tree, min(self.wave, left))):
                left -= len(leaves)
                watch = Watch(session, self.stop, self.select, self.aggregate, [*finished], merged=True)
                finished += await self.expand(session, leaves, nodes, watch)
                if session.stopped:
                    break
                may_finish = 0 if tree.closed else left * self.width
                found = await so_far(session, finished, growing(nodes), self.select, self.stop, may_finish)
                if session.stopped:
                    break
                yield found
        session.remember([replace(node.path, visits=node.visits, value=node.value) for node in nodes])
        yield await conclude(session, finished, growing(nodes), self.select, self.aggregate)

    def select_leaves(self, tree: Node, count: int) -> list[Node]:
        """Distinct leaves to expand, the best first; fewer when the tree has fewer. Virtual losses are undone."""
        leaves: list[Node] = []
        while len(leaves) < count and (leaf := self.descend(tree, leaves)) is not None:
            leaves.append(leaf)
            leaf.back_up(0.0)  # a virtual loss: visited, with nothing gained
        for leaf in leaves:
            leaf.back_up(0.0, visits=-1)
        return leaves

    def descend(self, tree: Node, taken: Sequence[Node]) -> Node | None:
        """From the root always to the open child with the highest PUCT, down to a leaf that is not taken."""
        if not available(tree, taken):
            return None
        node = tree
        while node.expanded:
            going = [child for child in node.children if available(child, taken)]
            node = max(going, key=lambda child: (self.puct(child), -child.path.id))
        return node

    def puct(self, node: Node) -> float:
        """Q + c · P · sqrt(N_parent) / (1 + N), P being uniform over the siblings."""
        assert node.parent is not None, "the root has no siblings to be compared with"
        prior = 1 / len(node.parent.children)
        return node.value + self.exploration * prior * math.sqrt(node.parent.visits) / (1 + node.visits)

    async def expand(
        self, session: Session, leaves: Sequence[Node], nodes: list[Node], watch: Watch
    ) -> list[Candidate]:
        """Give every leaf its children, value them, back up; return the paths that ended, rollouts included."""
        steps = [self.step if len(leaf.path.steps) + 1 < self.max_steps else None for leaf in leaves]
        grown = list(map(merge, await grow(session, [leaf.path for leaf in leaves], self.width, steps, watch)))
        rollouts: list[Candidate] = []
        families = await for_families(grown, partial(self.evaluate, session, rollouts, watch))
        for leaf, family in zip(leaves, families, strict=True):
            leaf.expanded = True
            leaf.children = [Node(path, leaf) for path in family]
            for child in leaf.children:
                child.back_up(score(child.path))
            nodes += leaf.children
        return [path for family in families for path in family if not path.open] + rollouts

    async def evaluate(
        self, session: Session, rollouts: list[Candidate], watch: Watch, children: Sequence[Candidate]
    ) -> list[Candidate]:
        """The children with the values of the paper: their own scores, or those of greedy rollouts, which are answers
        as well and are added to `rollouts`."""
        if self.value == "scorer":
            valued = await score_paths(session, children, self.aggregate)
        else:
            ends = await score_paths(session, await self.roll_out(session, children, watch), self.aggregate)
            rollouts += [end for child, end in zip(children, ends, strict=True) if child.open and not end.open]
            valued = [with_score_ahead(child, end) for child, end in zip(children, ends, strict=True)]
        session.remember([*valued, *rollouts])
        return valued

    async def roll_out(self, session: Session, children: Sequence[Candidate], watch: Watch) -> list[Candidate]:
        """The children greedily continued to the end of their answers; as they are when that cannot be."""

        async def to_the_end(paths: Sequence[Candidate]) -> list[Candidate]:
            await watch.look(len(paths))
            return await grow_greedily(session, paths, None, reserve(session), watch)

        with suppress(BudgetSpent, EngineError):
            return await for_open(children, to_the_end)
        return list(children)


def growing(nodes: Sequence[Node]) -> list[Candidate]:
    """The paths that can go on."""
    return [node.path for node in nodes if node.path.open]


def available(node: Node, taken: Sequence[Node]) -> bool:
    """Whether a leaf is left at or below this node that is neither closed nor taken."""
    if not node.expanded:
        return not node.closed and all(node is not other for other in taken)
    return any(available(child, taken) for child in node.children)


def merge(family: Sequence[Candidate]) -> list[Candidate]:
    """One child for each text, the first."""
    distinct: dict[str, Candidate] = {}
    for child in family:
        distinct.setdefault(child.last.text, child)
    return list(distinct.values())
