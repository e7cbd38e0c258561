"""Scorers give candidates numbers in [0, 1]: a served model as a judge, the samples' own probabilities, reward models,
what can be computed; or no opinion.

A scorer that a request can name is a frozen dataclass of knobs with a `score`. To add one, write its file and name it
in `SCORERS`; validation, schemas and documentation follow from the class. Reward models have servers, and so are named
by the service's settings.
"""

from strategies.scorers.code_tests import CodeTests
from strategies.scorers.composed import All, First
from strategies.scorers.confidence import Logprob, SelfCertainty
from strategies.scorers.deepconf import DeepConf
from strategies.scorers.equations import Equations
from strategies.scorers.generative import Generative
from strategies.scorers.grader import Grader
from strategies.scorers.judge import Judge
from strategies.scorers.listwise_judge import ListwiseJudge
from strategies.scorers.p_true import PTrue
from strategies.types import NamedScorer

SCORERS: dict[str, type[NamedScorer]] = {
    scorer.type: scorer
    for scorer in (
        Judge,
        ListwiseJudge,
        Generative,
        Logprob,
        SelfCertainty,
        PTrue,
        DeepConf,
        Equations,
        CodeTests,
        Grader,
        All,
        First,
    )
}
