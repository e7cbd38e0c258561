"""The vLLMs of checkpoints that have weights of their own, beside the base model's.

Such a checkpoint gets a vLLM when the first request names it, on a port of its own; that request waits for it, and all
others go on meanwhile. More than `limit` run only during a change: when another checkpoint is asked for, its vLLM
starts beside the old ones, and the one that was not used for the longest time is ended once it has had nothing to do
for a while. So nothing that runs is disturbed, and two that are used by turns do not push each other out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from service.engines.backend import Backend
from service.engines.command import EngineFailed
from service.engines.managed import ManagedCheckpoint, ManagedEngine, State
from service.engines.vllm.client import VllmClient
from service.settings import Settings
from strategies.errors import EngineUnavailable

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
IDLE_SECONDS = 60.0
"""Without a request, before a vLLM may go: longer than a search pauses while its scorer works."""

Make = Callable[[str, Path, int], ManagedEngine]
"""A vLLM for the checkpoint of this name, in this folder, on this port."""


class Fleet:
    """`folder` tells where a checkpoint's weights are; None for every model that the base's vLLM serves."""

    def __init__(
        self,
        settings: Settings,
        limit: int,
        folder: Callable[[str], Path | None],
        make: Make | None = None,
    ) -> None:
        self.settings, self.limit, self.folder = settings, limit, folder
        self.make = make or (lambda name, path, port: ManagedCheckpoint(settings, name, path, port, limit))
        self.members: dict[str, Backend] = {}
        self.leaving: list[Backend] = []

    async def serving(self, model: str) -> Backend | None:
        """The backend of a model, started if need be; None where the base serves it.

        Raise EngineUnavailable if it cannot be started.
        """
        member = self.members.get(model)  # first of all: searches go on when their checkpoint is deleted
        if member is None:
            folder = self.folder(model)
            if folder is None:
                return None
            member = await self.start(model, folder)
        await self.wait_ready(model, member)
        return member

    async def start(self, model: str, folder: Path) -> Backend:
        """Begin to start a vLLM for a model on the first port that is free."""
        taken = {member.client.settings.engine_port for member in (*self.members.values(), *self.leaving)}
        first = self.settings.engine_port + 2
        port = next((port for port in range(first, first + self.limit + 1) if port not in taken), None)
        if port is None:
            busy = ", ".join(sorted(self.members))
            raise EngineUnavailable(
                f"no place for {model}: this server keeps {self.limit} such checkpoints (OUTTHINK_FULL_MODELS), and "
                f"{busy} are in use",
                retry_after=round(IDLE_SECONDS),
            )
        process = self.make(model, folder, port)
        client = VllmClient(self.settings.model_copy(update={"engine_port": port}))
        member = self.members[model] = Backend(client, f"the vLLM of {model}", process)
        await process.start()
        return member

    async def wait_ready(self, model: str, member: Backend) -> None:
        """Return when a vLLM that starts answers; the wait is as long as one for any first byte."""
        try:
            with member.in_use():  # who waits for its start uses it, and its idle time begins when it is ready
                if member.state is State.STARTING:
                    await member.wait_ready(self.settings.first_byte_seconds)
        except EngineFailed as error:
            log.error("%s: %s", model, error)
            raise EngineUnavailable(f"{model} cannot be served: {str(error).partition(chr(10))[0]}") from error

    async def keep(self) -> None:
        """End for ever what is not needed."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            while needless := self.needless():
                log.info("%s is served no longer", needless[0])
                await self.end(needless[0])

    def needless(self) -> list[str]:
        """Whose vLLM is to go: those that failed, whose checkpoint was deleted, and those too many, idle ones."""
        resting = {model for model, member in self.members.items() if not member.active}
        idle = {model for model in resting if self.members[model].idle_seconds >= IDLE_SECONDS}
        gone = {model for model in idle if self.folder(model) is None}
        failed = {model for model in resting if self.members[model].state is State.STOPPED}
        begun = [model for model, member in self.members.items() if member.state in (State.READY, State.DOWN)]
        longest_idle = sorted(begun, key=lambda model: self.members[model].idle_seconds, reverse=True)
        spare = longest_idle[: max(0, len(begun) - self.limit)]
        return sorted(gone | failed | set(spare) & idle)

    async def end(self, model: str) -> None:
        """End one vLLM; a request that comes meanwhile starts another."""
        member = self.members.pop(model)
        self.leaving.append(member)
        try:
            await member.close()
        except Exception:
            log.exception("%s was not ended in order", model)
        self.leaving.remove(member)

    async def close(self) -> None:
        ends = (member.close() for member in (*self.members.values(), *self.leaving))
        await asyncio.gather(*ends, return_exceptions=True)

    @property
    def details(self) -> dict[str, str]:
        """In one line each, how they are."""
        return {model: member.detail for model, member in self.members.items()}
