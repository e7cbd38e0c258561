"""The one loop: the driver that takes a strategy's rounds until it finishes or the budget is spent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from strategies.accounting import StoppedBy
from strategies.errors import BudgetSpent, DeadlineExceeded, EngineError, EngineRefused
from strategies.session import Session, Strategy
from strategies.types import Event, Round


@dataclass(frozen=True, slots=True)
class Outcome:
    """The last round of a run and why it was the last."""

    round: Round
    stopped_by: StoppedBy


async def run(strategy: Strategy, session: Session) -> AsyncGenerator[Event | Outcome]:
    """Yield what the strategy reports, and the Outcome at the end.

    Raise DeadlineExceeded when the budget ended before anything was generated, EngineError when every branch failed.
    An engine that fails later, as under a judge, leaves the answer that there is, and is reported.
    """
    latest: Round | None = None
    async with aclosing(strategy.search(session)) as events:
        try:
            async for event in events:
                if isinstance(event, Round):
                    if not any(candidate.tokens for candidate in event.candidates):
                        continue  # nothing to show: what follows may still be an error with a status of its own
                    latest = event
                    session.progress.rounds += 1
                yield event
        except BudgetSpent:
            pass  # the latest round stands
        except EngineError as error:
            error.generated = error.generated or session.generated > 0
            if isinstance(error, EngineRefused) or latest is None or not any(c.complete for c in latest.ranked):
                raise
            session.report(error)
    if latest is None:
        raise DeadlineExceeded("the budget ended before the engine had generated anything; raise `budget`")
    yield Outcome(latest, session.stopped or ("converged" if latest.converged else "complete"))
