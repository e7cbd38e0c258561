"""All backends of one service, and who serves which model.

Backends ── base        the policy's vLLM, managed or remote
         ├─ fleet       those of checkpoints that have full weights, started when a request names them
         └─ rewards     those of reward models, by the name of the scorer
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engines.backend import Backend
from service.engines.fleet import Fleet
from service.jobs import Checkpoint


@dataclass(slots=True)
class Backends:
    """Several scorers may share a server, and so a backend."""

    base: Backend
    rewards: Mapping[str, Backend] = field(default_factory=dict)
    fleet: Fleet | None = None

    async def serving(self, model: str) -> Backend:
        """Return the backend of a model, started if need be; raise EngineUnavailable if that fails."""
        found = await self.fleet.serving(model) if self.fleet is not None else None
        return found or self.base

    def can_serve(self, checkpoint: Checkpoint) -> bool:
        """Whether a request may name this checkpoint: adapters are the base's, full weights the fleet's."""
        return checkpoint.form == "adapter" or checkpoint.name in self.base.models or self.fleet is not None

    @property
    def fixed(self) -> list[Backend]:
        """Those that are there from start to end, each once."""
        return [self.base, *dict.fromkeys(self.rewards.values())]
