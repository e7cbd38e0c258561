"""Who may generate now, over all requests with a strategy: so many branches and tokens at once, shared among the keys.

Order: first the key that has been given the least, in tokens. This is the virtual token counter of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024, https://arxiv.org/abs/2401.00588): what a key holds counts as
estimated, what has ended as it truly was, and a key that comes back begins at the least of those that are active, so
that idle time is not saved up. Whoever is next is waited for and not overtaken, so nobody starves.

Share: a key may hold `SHARE` times what it leaves free (Choudhury and Hahne, "Dynamic Queue Length Thresholds for
Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking 6(2), 1998): three quarters when it is alone.
Nothing that runs is ever taken away, so only what is left free lets a key that comes new begin at once. A key that
holds nothing may take all there is, and a request that is larger than that is let in as if it were as large.

In the engine they are served in the same order (`Place.priority`), where a request of many branches would hold up those
that come after it. A single answer without a strategy is the engine's own to queue, before all of these.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.errors import ApiError

SHARE = 3
WINDOW_SECONDS = 120.0
"""How far back departures tell how fast places come free."""


@dataclass(eq=False, slots=True)
class Place:
    """One request: what it holds while it runs.

    `used` are the tokens that it truly took, as far as is known. `priority` is its turn in the engine's queue: how many
    tokens more its key was given than the key that was given the least.
    """

    tenant: Tenant
    branches: int
    tokens: int
    number: int
    turn: asyncio.Future[None]
    used: int = 0
    priority: int = 0


@dataclass(eq=False, slots=True)
class Tenant:
    """One key: what it holds, what it was given before, and who waits."""

    branches: int = 0
    tokens: int = 0
    settled: int = 0
    waiting: deque[Place] = field(default_factory=deque)

    @property
    def given(self) -> int:
        return self.settled + self.tokens

    @property
    def active(self) -> bool:
        return bool(self.branches or self.waiting)


class Admission:
    """`keys` is how many there may be: a single one need not leave anything to others."""

    def __init__(
        self, branches: int, tokens: int, queue: int, keys: int = 2, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.branches = self.free_branches = branches
        self.tokens = self.free_tokens = tokens
        self.queue = queue
        self.shared = keys > 1
        self.now = now
        self.tenants: dict[str, Tenant] = {}
        self.arrived = 0
        self.busy_since = now()
        self.departures: deque[float] = deque(maxlen=256)
        self.closed: Callable[[], ApiError] | None = None

    @property
    def waiting(self) -> int:
        return sum(len(tenant.waiting) for tenant in self.tenants.values())

    @asynccontextmanager
    async def hold(self, key: str, branches: int, tokens: int, patience: float | None = None) -> AsyncIterator[Place]:
        """Hold so many branches and tokens, or all there are.

        Raise ApiError 429 when the queue is full, or when the turn has not come after `patience` seconds.
        """
        place = self.enqueue(key, min(branches, self.branches), min(tokens, self.tokens))
        await self.enter(place, patience)
        try:
            yield place
        finally:
            self.leave(place)

    def close(self, error: Callable[[], ApiError]) -> None:
        """Turn away all who wait, and all who come."""
        self.closed = error
        for tenant in self.tenants.values():
            while tenant.waiting:
                place = tenant.waiting.popleft()
                if not place.turn.done():
                    place.turn.set_exception(error())

    def enqueue(self, key: str, branches: int, tokens: int) -> Place:
        """A place at the end of its key's queue; raise ApiError when there is none."""
        if self.closed:
            raise self.closed()
        if not self.active:
            self.tenants.clear()
            self.busy_since = self.now()
        tenant = self.tenants.setdefault(key, Tenant())
        if not tenant.active:
            tenant.settled = max(tenant.settled, min((other.settled for other in self.active), default=0))
        self.arrived += 1
        place = Place(tenant, branches, tokens, self.arrived, asyncio.get_running_loop().create_future())
        tenant.waiting.append(place)
        self.admit()
        if not place.turn.done() and not self.may_wait(tenant):
            tenant.waiting.remove(place)
            raise self.full("too many requests wait")
        return place

    @property
    def active(self) -> list[Tenant]:
        return [tenant for tenant in self.tenants.values() if tenant.active]

    def may_wait(self, tenant: Tenant) -> bool:
        """Whether the queue has room for who came last of a key, which leaves places in it to others, too."""
        ahead = len(tenant.waiting) - 1
        free = self.queue - self.waiting + 1
        return free > 0 and (ahead == 0 or self.within(ahead, 1, free))

    def within(self, held: int, wanted: int, free: int) -> bool:
        """Whether a key that holds so much may have more of what is free."""
        return not self.shared or held + wanted <= SHARE * (free - wanted)

    async def enter(self, place: Place, patience: float | None) -> None:
        """Wait for its turn; whoever leaves at the moment of being let in gives its place back."""
        try:
            async with asyncio.timeout(patience if not place.turn.done() else None):
                await place.turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if place.turn.cancelled():
                if place in place.tenant.waiting:
                    place.tenant.waiting.remove(place)
                self.admit()
            elif place.turn.exception() is None:
                self.leave(place)
            if isinstance(error, TimeoutError):
                raise self.full("the budget's seconds went by in the queue") from None
            raise

    def leave(self, place: Place) -> None:
        place.tenant.branches -= place.branches
        place.tenant.tokens -= place.tokens
        place.tenant.settled += max(place.used, 1)  # what failed was a turn, too
        self.free_branches += place.branches
        self.free_tokens += place.tokens
        self.departures.append(self.now())
        self.admit()

    def admit(self) -> None:
        """Let in whoever is next, as long as there is room."""
        while (place := self.next()) is not None and self.fits(place):
            place.tenant.waiting.popleft()
            place.tenant.branches += place.branches
            place.tenant.tokens += place.tokens
            self.free_branches -= place.branches
            self.free_tokens -= place.tokens
            place.priority = place.tenant.given - min(tenant.given for tenant in self.active)
            place.turn.set_result(None)

    def next(self) -> Place | None:
        """The first of the key that was given the least; of equals, who came first."""
        heads = [head for tenant in self.tenants.values() if (head := self.head(tenant)) is not None]
        return min(heads, key=lambda head: (head.tenant.given, head.number), default=None)

    def head(self, tenant: Tenant) -> Place | None:
        """Who is first of a key, unless the key holds its share already."""
        while tenant.waiting and tenant.waiting[0].turn.cancelled():
            tenant.waiting.popleft()  # it has left, and only has not noticed yet
        if not tenant.waiting:
            return None
        head = tenant.waiting[0]
        share = self.within(tenant.branches, head.branches, self.free_branches) and self.within(
            tenant.tokens, head.tokens, self.free_tokens
        )
        return head if share or not tenant.branches else None

    def fits(self, place: Place) -> bool:
        return place.branches <= self.free_branches and place.tokens <= self.free_tokens

    def full(self, why: str) -> ApiError:
        headers = {"Retry-After": str(self.retry_after())}
        return ApiError(429, f"the server is full: {why}; try again later", None, "server_full", headers=headers)

    def retry_after(self) -> int:
        """Seconds in which all who wait will have been let in, at the rate at which others left lately: 1 to 120."""
        now = self.now()
        oldest = self.departures[0] if len(self.departures) == self.departures.maxlen else -math.inf
        since = max(self.busy_since, now - WINDOW_SECONDS, oldest)
        left = sum(moment >= since for moment in self.departures)
        return min(max(math.ceil(self.waiting * (now - since) / max(left, 1)), 1), 120)
