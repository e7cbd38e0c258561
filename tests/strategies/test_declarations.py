"""What strategies and scorers say of themselves, for those who ask them in place of knowing them."""

from __future__ import annotations

import pytest

from strategies import STRATEGIES
from strategies.best_of_n import BestOfN
from strategies.knobs import knobs
from strategies.scorers.generative import Generative
from strategies.scorers.judge import Judge
from strategies.scorers.labels import ModelScorer
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.self_consistency import SelfConsistency
from strategies.session import Strategy
from strategies.types import Selection

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


@every_strategy
def test_the_knobs_that_a_strategy_names_are_its_own(strategy: type[Strategy]) -> None:
    names = {knob.name for knob in knobs(strategy)}
    assert {strategy.size_knob, strategy().breadth_knob} - {None} <= names


@every_strategy
@pytest.mark.parametrize("size", [1, 2, 3, 6, 8, 100])
def test_a_strategy_makes_sense_at_every_size(strategy: type[Strategy], size: int) -> None:
    stated = strategy.at_size({}, size)
    assert stated.get(strategy.size_knob or "") == (size if strategy.size_knob else None)
    strategy(**stated)


@pytest.mark.parametrize(
    "strategy", [s for s in STRATEGIES.values() if s.size_knob], ids=lambda strategy: str(strategy.type)
)
def test_the_knob_of_the_breadth_lowers_it(strategy: type[Strategy]) -> None:
    few, many = (strategy(**{str(strategy().breadth_knob): size}).plan(1, 10, None).branches for size in (4, 8))
    assert few < many


@pytest.mark.parametrize(
    ("strategy", "selection"),
    [
        (SelfConsistency(), "majority"),
        (SelfConsistency(vote="weighted"), "weighted_vote"),
        (BestOfN(), "best"),
        (BestOfN(select="weighted_vote"), "weighted_vote"),
        (STRATEGIES["beam_search"](), None),
    ],
)
def test_what_smaller_sizes_are_read_off_by(strategy: Strategy, selection: Selection | None) -> None:
    assert strategy.selection == selection


def test_a_caller_sets_knobs_only() -> None:
    assert [knob.name for knob in knobs(Generative)] == ["model", "format"]


@pytest.mark.parametrize("scorer", [Judge("alias"), ListwiseJudge("alias"), Generative("alias", "rlhflow")])
def test_a_scorer_asks_its_model_by_the_name_that_it_is_served_by(scorer: ModelScorer) -> None:
    assert scorer.models == ("alias",)
    renamed = scorer.renamed({"alias": "model-2"})
    assert (type(renamed), renamed.models) == (type(scorer), ("model-2",))
    assert renamed.renamed({"model-2": "alias"}) == scorer
