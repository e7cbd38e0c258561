"""Beam search against a process reward model (Snell et al., 2024, arXiv:2408.03314), and DVTS (Beeching et al., 2024,
"Scaling test-time compute with open models"): the same search in independent trees.

Deviations: finished paths leave the frontier and are never padded with copies; the last step has no delimiter, so that
a path that reached `max_steps` still ends in an answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from math import gcd
from typing import Any, ClassVar

from strategies.errors import BudgetSpent, EngineError, InvalidParameter
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
class Tree:
    """One independent search: its finished paths and those that it goes on with."""

    frontier: list[Candidate]
    finished: list[Candidate]


@dataclass(frozen=True, slots=True)
class BeamSearch(Strategy):
    """Search over reasoning steps, keeping the partial answers the scorer likes best.

    1. Sample N first steps, N/T in each of T trees.
    2. Score every path.
    3. In each tree keep the N/(T·M) best that are unfinished.
    4. Sample M next steps of each, and go back to 2, until every tree has N/T finished paths or none to go on with.

    Under a rule (`stop`) it ends as soon as the finished paths decide it (strategies/steps.py).
    """

    type: ClassVar[str] = "beam_search"
    summary: ClassVar[str] = "Search over steps, keeping the partial answers that a scorer likes best."
    paper: ClassVar[str] = "https://arxiv.org/abs/2408.03314"
    cost: ClassVar[str] = "beams × (lookahead + 1) × answer, a request a path and round; plus a score a step"
    unsupported: ClassVar[frozenset[str]] = UNSUPPORTED
    text_only: ClassVar[bool] = True
    temperature_default: ClassVar[float | None] = 0.8
    size_knob: ClassVar[str | None] = "beams"

    beams: int = knob(16, "Paths in all: N in the paper.", ge=1, le=256)
    width: int = knob(4, "Next steps sampled of each path that is kept: M in the paper.", ge=1, le=64)
    trees: int = knob(1, "Independent searches; beams / width of them is DVTS.", ge=1, le=64)
    lookahead: int = knob(0, "Steps that each path is greedily continued for its score: k in the paper.", ge=0, le=8)
    max_steps: int = knob(40, "Most steps of an answer.", ge=1, le=256)
    step: Step = knob(Step(), "Where a step ends.")
    scorer: str | dict[str, Any] = knob("generative", "Who scores the steps.")
    aggregate: Aggregate | None = knob(None, "How the scores of the steps become one; unset: as the scorer has it.")
    select: Select = knob("best", "Highest score, or highest sum of scores of an answer.")
    stop: Stop = knob(Never(), "When to end the search before its time: `none` or `verified`.")

    def __post_init__(self) -> None:
        if self.beams % (self.width * self.trees):
            raise InvalidParameter(
                "strategy.beams", f"must be a multiple of width × trees ({self.width * self.trees}), not {self.beams}"
            )
        check_search(self.stop, min(self.max_steps * self.beams, 2 * self.beams - self.trees))

    @classmethod
    def at_size(cls, stated: Mapping[str, Any], size: int) -> dict[str, Any]:
        """A width that is not stated is the largest divisor of the default that fits."""
        trees = stated.get("trees", 1)
        fits = "width" not in stated and type(trees) is int and trees > 0
        width = {"width": gcd(max(size // trees, 1), cls().width)} if fits else {}
        return {**stated, "beams": size, **width}

    def plan(self, n: int, max_tokens: int, scorer: Scorer | None) -> Plan:
        check_scorer(self.stop, scorer)
        tokens = self.beams * max_tokens * (1 + self.lookahead)
        judgements = self.beams * self.max_steps * (1 + self.lookahead)
        return Plan(self.max_steps, self.beams, tokens, scorer.tokens(judgements) if scorer else 0)

    async def search(self, session: Session) -> AsyncGenerator[Event]:
        trees = [Tree([root()], []) for _ in range(self.trees)]
        with until_spent(session, lambda: paths(trees)[0]):
            for depth in range(self.max_steps):
                await self.level(session, trees, depth)
                if session.stopped or not any(tree.frontier for tree in trees):
                    break
                left = self.may_finish(trees, self.max_steps - depth - 1)
                found = await so_far(session, *paths(trees), self.select, self.stop, left)
                if session.stopped:
                    break
                yield found
        yield await conclude(session, *paths(trees), self.select, self.aggregate)

    def may_finish(self, trees: Sequence[Tree], steps: int) -> int:
        """The most paths that may yet finish within so many steps: a tree goes on until it has beams / trees of them,
        and its last step may finish as many at once."""
        most = self.beams // self.trees
        return sum(
            min(len(tree.frontier) * self.width + (steps - 1) * most, 2 * most - 1 - len(tree.finished))
            for tree in trees
            if tree.frontier
        )

    async def level(self, session: Session, trees: Sequence[Tree], depth: int) -> None:
        """One more step of every path of every tree, in one batch, and the choice of those to go on with."""
        parents = [path for tree in trees for path in tree.frontier]
        n = self.width if depth else self.beams // self.trees
        step = None if depth == self.max_steps - 1 else self.step
        watch = Watch(session, self.stop, self.select, self.aggregate, paths(trees)[0])
        families = iter(await grow(session, parents, n, [step] * len(parents), watch))
        by_tree = [list(chain(*islice(families, len(tree.frontier)))) for tree in trees]
        scored = await for_families(by_tree, partial(self.scores, session))
        for tree, children in zip(trees, scored, strict=True):
            self.prune(tree, children)

    def prune(self, tree: Tree, children: Sequence[Candidate]) -> None:
        """Finished paths leave; the best of the others go on, while there are not enough finished ones."""
        tree.finished += [child for child in children if not child.open]
        keep = self.beams // (self.trees * self.width)
        best = sorted((child for child in children if child.open), key=lambda c: (-score(c), c.id))
        enough = len(tree.finished) >= self.beams // self.trees
        tree.frontier = [] if enough else best[:keep]

    async def scores(self, session: Session, paths: Sequence[Candidate]) -> list[Candidate]:
        """The paths with their scores, which with a lookahead are those of their greedy continuations."""

        async def one_step(paths: Sequence[Candidate]) -> list[Candidate]:
            return await grow_greedily(session, paths, self.step, reserve(session))

        ahead = list(paths)
        with suppress(BudgetSpent, EngineError):  # then what could be seen so far is scored
            for _ in range(self.lookahead):
                ahead = await for_open(ahead, one_step)
        scored = await score_paths(session, ahead, self.aggregate)
        seen = [with_score_ahead(path, far) for path, far in zip(paths, scored, strict=True)]
        session.remember(seen)
        return seen


def paths(trees: Sequence[Tree]) -> tuple[list[Candidate], list[Candidate]]:
    """The finished paths of all trees, and those that they go on with."""
    finished = [path for tree in trees for path in tree.finished]
    return finished, [path for tree in trees for path in tree.frontier if path.steps]
