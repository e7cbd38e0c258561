"""Inference-time search, free of HTTP, numbers and models: the standard library only.

A strategy is a frozen dataclass of knobs with a `search` that is given a `Session` and yields rounds. To add one, write
its file and name it in `STRATEGIES`; validation, schemas, documentation and presets follow from the class.
"""

from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.chain_of_thought import ChainOfThought
from strategies.mcts import MCTS
from strategies.particle_filter import ParticleFilter
from strategies.self_consistency import SelfConsistency
from strategies.session import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.type: strategy
    for strategy in (
        ChainOfThought,
        SelfConsistency,
        BestOfN,
        BeamSearch,
        ParticleFilter,
        MCTS,
    )
}
