"""Prometheus metrics of the service. Every app has its own registry, so that tests can have many apps."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from strategies.run import Outcome
from strategies.session import Session

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What is counted, and how."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "outthink_requests", "Requests answered.", ("route", "strategy", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "outthink_request_seconds", "Time to the last byte.", ("strategy",), buckets=SECONDS, registry=self.registry
        )
        self.first_byte = Histogram(
            "outthink_first_byte_seconds",
            "Time to the first byte.",
            ("strategy",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "outthink_tokens", "Tokens that the engine generated.", ("strategy", "role", "fate"), registry=self.registry
        )
        self.key_tokens = Counter(
            "outthink_key_tokens",
            "Tokens that a key's requests cost, each prompt once and all that was generated.",
            ("key",),
            registry=self.registry,
        )
        self.samples = Counter("outthink_samples", "Answers sampled.", ("strategy", "outcome"), registry=self.registry)
        self.saved = Counter(
            "outthink_samples_saved",
            "Answers that a stopping rule spared.",
            ("strategy",),
            registry=self.registry,
        )
        self.live = Gauge("outthink_live_branches", "Branches that the engine is generating.", registry=self.registry)
        self.queue = Gauge("outthink_queued_requests", "Requests that wait for branches.", registry=self.registry)
        self.engine_up = Gauge("outthink_engine_up", "1 when the engine would answer.", registry=self.registry)

    def watch(self, live: Callable[[], float], queue: Callable[[], float], up: Callable[[], float]) -> None:
        """Read these when scraped."""
        self.live.set_function(live)
        self.queue.set_function(queue)
        self.engine_up.set_function(up)

    def count_run(self, strategy: str, session: Session, outcome: Outcome | None, n: int) -> None:
        """Count the tokens of a run by fate, also of one that failed or whose client left."""
        policy, scorer = session.usage["policy"].completion, session.usage["scorer"].completion
        chosen = outcome.round.ranked[:n] if outcome else ()
        returned = sum(candidate.tokens for candidate in chosen)
        cancelled = max(session.cancelled - sum(c.tokens for c in chosen if not c.complete), 0)
        fates = {"returned": returned, "cancelled": cancelled, "discarded": max(policy - returned - cancelled, 0)}
        for fate, tokens in fates.items():
            self.tokens.labels(strategy, "policy", fate).inc(tokens)
        self.tokens.labels(strategy, "scorer", "discarded").inc(scorer)
        candidates = outcome.round.candidates if outcome else ()
        complete = sum(candidate.complete for candidate in candidates)
        counts = {"complete": complete, "cut": len(candidates) - complete, "failed": session.failed}
        counts["unused"] = session.unused
        self.saved.labels(strategy).inc(session.saved)
        for name, count in counts.items():
            self.samples.labels(strategy, name).inc(count)
