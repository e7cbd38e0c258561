"""What one key may ask for in a minute, as OpenAI limits it and says so: requests and tokens, `x-ratelimit-*`.

Both are token buckets: full at first, filled again evenly over a minute. A request takes what it is expected to cost,
and when it has ended that becomes what it did cost, the prompt and all that was generated. So a bucket may fall below
empty, and then the next request has to wait until that is paid back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import ApiError
from service.settings import Settings

Now = Callable[[], float]


class Bucket:
    """Holds `limit` at most, and gets as much in a minute."""

    def __init__(self, limit: int, now: Now) -> None:
        self.limit = limit
        self.now = now
        self.filled = float(limit)
        self.at = now()

    @property
    def level(self) -> float:
        return min(self.filled + (self.now() - self.at) * self.limit / 60, self.limit)

    def take(self, amount: float) -> None:
        self.filled, self.at = self.level - amount, self.now()

    def seconds_until(self, amount: float) -> float:
        """How long until so much is there; what never fits waits for a full bucket."""
        return max(min(amount, self.limit) - self.level, 0) * 60 / self.limit

    def headers(self, what: str) -> dict[str, str]:
        shown = {
            "limit": str(self.limit),
            "remaining": str(max(math.floor(self.level), 0)),
            "reset": duration(self.seconds_until(self.limit)),
        }
        return {f"x-ratelimit-{name}-{what}": value for name, value in shown.items()}


@dataclass(slots=True)
class Spending:
    """What one request has cost, prompt and generated tokens; written when it is known."""

    tokens: int = 0


class Account:
    """One key: the name that logs and metrics have for it, its settings, and what is left of its minute.

    `charged` is told of every request that has ended, how many tokens it cost.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        now: Now = time.monotonic,
        charged: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.charged = charged
        limits = {"requests": settings.requests_per_minute, "tokens": settings.tokens_per_minute}
        self.buckets = {what: Bucket(limit, now) for what, limit in limits.items() if limit is not None}

    @contextmanager
    def spending(self, estimate: int) -> Iterator[Spending]:
        """Count one request, expected to cost so many tokens; raise ApiError 429 when that is over the limit."""
        wanted = {"requests": 1, "tokens": estimate}
        for what, bucket in self.buckets.items():
            if (seconds := bucket.seconds_until(wanted[what])) > 0:
                raise exceeded(what, bucket, wanted[what], seconds)
        taken = {what: min(wanted[what], bucket.limit) for what, bucket in self.buckets.items()}
        for what, bucket in self.buckets.items():
            bucket.take(taken[what])
        spending = Spending()
        try:
            yield spending
        finally:
            self.charged(spending.tokens)
            if "tokens" in self.buckets:
                self.buckets["tokens"].take(spending.tokens - taken["tokens"])

    @property
    def headers(self) -> dict[str, str]:
        return {name: value for what, bucket in self.buckets.items() for name, value in bucket.headers(what).items()}


def exceeded(what: str, bucket: Bucket, wanted: int, seconds: float) -> ApiError:
    left = max(math.floor(bucket.level), 0)
    message = (
        f"this key may use {bucket.limit} {what} a minute; {left} are left and this request needs {wanted}. "
        f"Try again in {duration(seconds)}"
    )
    if what == "tokens" and wanted > left:
        message += ", or ask for less: `max_tokens`, `budget.tokens`"
    headers = {"Retry-After": str(min(max(math.ceil(seconds), 1), 120))}
    return ApiError(429, message, None, "rate_limit_exceeded", headers=headers)


def duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
