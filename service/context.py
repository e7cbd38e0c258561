"""What the routes share: one `Context` in the app's state, made at start and closed at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from service.answers.pool import AnswerPool
from service.engines.backends import Backends
from service.engines.vllm.salts import Salts
from service.errors import ApiError
from service.jobs import Store
from service.registry.models import Models
from service.registry.scorers import Scorers, Scoring
from service.sandbox import Sandbox
from service.settings import Settings
from service.web.admission import Admission
from service.web.metrics import Metrics
from service.web.middleware import RequestInfo
from service.web.rate_limits import Account
from service.web.shutdown import Shutdown, shutting_down
from strategies.session import Session
from strategies.types import Engine


class EngineFactory(Protocol):
    """Makes one run's engine, with its salt of the prefix cache and its turn in the engine's own queue."""

    def __call__(self, model: str, session_id: str, salt: str = "", priority: int = 0) -> Engine: ...


@dataclass(slots=True)
class Context:
    settings: Settings
    backends: Backends
    engine: EngineFactory
    models: Models
    workers: AnswerPool
    sandbox: Sandbox
    admission: Admission
    metrics: Metrics
    shutdown: Shutdown
    store: Store
    jobs: Account  # whom the server's own jobs are counted for, in the queue beside the keys
    scorers: Scorers = field(default_factory=Scorers)
    salts: Salts = field(default_factory=Salts)
    live: set[Session] = field(default_factory=set)

    @property
    def live_branches(self) -> int:
        return sum(session.progress.live for session in self.live)

    def flops(self, session: Session, scoring: Scoring | None) -> float | None:
        """2 · parameters · tokens, of policy and scorer; prompt tokens that were cached cost nothing. None: unknown."""
        base = self.backends.base
        scorer = scoring.backend if scoring and scoring.backend else base
        sizes = {"policy": base.parameters, "scorer": scorer.parameters}
        total = 0.0
        for role, spent in session.usage.items():
            tokens = spent.prompt - spent.cached + spent.completion
            size = sizes[role]
            if tokens and size is None:
                return None
            total += 2.0 * (size or 0) * tokens
        return total

    def end_running(self) -> None:
        """The server must go: searches end with the best so far, who waits is turned away, plain requests are cut."""
        self.shutdown.expire()
        self.admission.close(shutting_down)
        for session in self.live:
            session.budget = replace(session.budget, seconds=min(session.budget.seconds or inf, session.seconds))


def context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


def request_info(request: Request) -> RequestInfo:
    return cast(RequestInfo, request.scope["seen"])


def admin(request: Request) -> None:
    """Let admins by; raise ApiError 403 for anybody else."""
    if request_info(request).caller != "admin":
        raise ApiError(403, "this needs an admin key", None, "admin_key_needed")


ContextDep = Annotated[Context, Depends(context)]
RequestInfoDep = Annotated[RequestInfo, Depends(request_info)]
ADMINS = [Depends(admin)]
"""As `dependencies` of a route or a router."""
