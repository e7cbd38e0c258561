"""Executing an order: whole, or as a stream. Whatever happens, what was spent is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

from service.answers.equality import AnswerReader
from service.chat import reply
from service.chat.checker import ScoreChecker
from service.chat.order import Order, cost
from service.chat.stream import ChunkWriter
from service.context import Context
from service.errors import ApiError, translate
from service.web.bodies import cancel
from service.web.middleware import RequestInfo
from service.web.shutdown import shutting_down
from service.wire.lengths import tokens_about, without_media
from strategies.errors import DeadlineExceeded, StrategyError
from strategies.run import Outcome, run
from strategies.session import Session
from strategies.types import Batch, Engine, Event

T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0
AHEAD = 64
"""Events that a run may be ahead of a slow client; then it waits, and so does the engine's stream."""


class Execution:
    """One order in the making."""

    def __init__(self, context: Context, order: Order, session_id: str, seen: RequestInfo) -> None:
        self.context = context
        self.order = order
        self.seen = seen
        self.outcome: Outcome | None = None
        share = context.workers.share(seen.account.name, session_id)
        self.reader = AnswerReader(share, order.answer.type, order.answer.pattern)
        self.session_id = session_id
        self.session = Session(
            order.chat,
            self.engine(),
            self.reader,
            order.scorer,
            seed=order.seed,
            checker=ScoreChecker(share, context.sandbox.share(seen.account.name, session_id)),
            budget=order.budget,
        )
        if order.scoring is not None:
            self.session.aggregate = order.scoring.aggregate
        self.head: Mapping[str, Any] = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": order.model,
            "system_fingerprint": fingerprint(order.model),
        }

    def engine(self, priority: int = 0) -> Engine:
        return self.context.engine(self.order.model, self.session_id, self.order.salt, priority)

    async def wait_served(self) -> None:
        """Have the models' vLLMs running; the budget of seconds begins then."""
        others = self.order.scorer.models if self.order.scorer else ()
        ready = asyncio.gather(*map(self.context.backends.serving, {self.order.model, *others}))
        await self.context.shutdown.within_deadline(ready)
        self.session.started = time.monotonic()

    @asynccontextmanager
    async def admit_and_run(self) -> AsyncIterator[AsyncGenerator[Event | Outcome]]:
        """Wait for a place, run, and count what was spent, also when it fails or the client leaves."""
        await self.wait_served()
        most = await self.session.in_time(cost(self.order, self.session.engine, self.context.settings))
        account, patience = self.seen.account, self.session.seconds_left
        with account.spending(most.tokens + tokens_about(without_media(self.order.chat.messages))) as spending:
            async with self.context.admission.hold(account.name, most.plan.branches, most.tokens, patience) as place:
                self.session.engine = self.engine(place.priority)
                self.context.live.add(self.session)
                try:
                    async with aclosing(self.events()) as events:
                        yield events
                finally:
                    self.context.live.remove(self.session)
                    self.seen.tokens = place.used = self.session.generated
                    spending.tokens = self.session.prompt_tokens + self.session.generated
                    self.context.metrics.count_run(self.order.strategy.type, self.session, self.outcome, self.order.n)

    async def events(self) -> AsyncGenerator[Event | Outcome]:
        """What the run reports; what its reader has to say is known before the outcome is passed on."""
        async with aclosing(run(self.order.strategy, self.session)) as events:
            async for event in events:
                for remark in self.reader.remarks:
                    self.session.note(remark)
                yield event

    async def finish(self) -> Outcome:
        """Run to the end."""
        async with self.admit_and_run() as events:
            async for event in events:
                if isinstance(event, Outcome):
                    self.outcome = event
        assert self.outcome is not None, "a run ends with an outcome or an error"
        return self.outcome

    async def whole(self) -> bytes:
        """Run to the end and return the chat completion."""
        outcome = await self.finish()
        body = reply.completion(self.head, self.order, self.session, outcome, self.flops, self.reader.undecided)
        return await off_the_loop(self.order.logprobs, reply.dumps, body)

    @property
    def flops(self) -> float | None:
        return self.context.flops(self.session, self.order.scoring)

    async def run_ahead(self, queue: asyncio.Queue[Event | Outcome | StrategyError | ApiError]) -> None:
        """Run ahead of the client by so much as the queue holds; the last item is the outcome or an error."""
        try:
            async with self.admit_and_run() as events:
                async for event in events:
                    if isinstance(event, Outcome):
                        self.outcome = event
                    await queue.put(event)
        except (StrategyError, ApiError) as error:
            await queue.put(error)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Yield server-sent events. An error before the first of them is raised, so that it can have a status."""
        queue: asyncio.Queue[Event | Outcome | StrategyError | ApiError] = asyncio.Queue(AHEAD)
        writer = ChunkWriter(self.head, self.order, self.session)
        task = asyncio.create_task(self.run_ahead(queue))
        begun = False
        try:
            while True:
                late = self.context.shutdown.expired
                items = await take_arrived(queue)
                if late and not items:  # the engine is silent, and the server will not wait for it any longer
                    items = [shutting_down(retry=False)]
                last = items[-1] if items else None
                if isinstance(last, (StrategyError, ApiError)) and not begun:
                    raise last
                begun = True
                yield await off_the_loop(self.order.logprobs, self.write_all, writer, items) or writer.progress()
                if isinstance(last, (Outcome, StrategyError, ApiError)):
                    return
        finally:
            await cancel(task)

    def write_all(self, writer: ChunkWriter, items: Sequence[object]) -> bytes:
        return b"".join(part for item in items for part in self.write(writer, item))

    def write(self, writer: ChunkWriter, item: object) -> list[bytes]:
        match item:
            case Batch():
                return [writer.tokens(item)]
            case Outcome():
                return list(writer.end(item, self.flops, self.reader.undecided))
            case StrategyError() | ApiError():
                return [as_api_error(item).event()]
            case _:
                return [] if writer.tokens_streamed else [writer.progress()]


async def off_the_loop(large: bool, work: Callable[..., T], *of: Any) -> T:
    """Do what takes long with log-probabilities, which may be a million, in a thread."""
    return await asyncio.to_thread(work, *of) if large else work(*of)


async def take_arrived(queue: asyncio.Queue[Any]) -> list[Any]:
    """All that is there; nothing after a heartbeat's time of silence."""
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            items = [await queue.get()]
    except TimeoutError:
        return []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items


def as_api_error(error: StrategyError | ApiError) -> ApiError:
    return error if isinstance(error, ApiError) else translate(error)


def fingerprint(model: str) -> str:
    """Names the model and the version of its weights; a checkpoint's name carries its version."""
    return model if model.startswith("ft:") else f"{model}:base"


async def dry_run(context: Context, order: Order, session_id: str) -> dict[str, Any]:
    """What the order would do at most, without generating anything."""
    engine, seconds = context.engine(order.model, session_id), order.budget.seconds
    try:
        async with asyncio.timeout(seconds):
            most = await cost(order, engine, context.settings, exact=True)
    except TimeoutError as error:
        raise DeadlineExceeded(f"the engine did not say how long a prompt may be within {seconds} seconds") from error
    return {
        "object": "outthink.plan",
        "model": order.model,
        "strategy": order.resolved,
        "rounds": most.plan.rounds,
        "branches": most.plan.branches,
        "max_tokens": most.max_tokens,
        "tokens": most.tokens,
        "unbounded_tokens": {"policy": most.plan.policy_tokens, "scorer": most.plan.scorer_tokens},
        "budget": {"tokens": order.budget.tokens, "seconds": order.budget.seconds},
    }
