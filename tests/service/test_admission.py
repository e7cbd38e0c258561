"""Who may enter, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import ApiError
from service.web.admission import SHARE, Admission, Place
from service.web.shutdown import shutting_down

MANY = 10**9
"""Tokens that never run out."""


class Crowd:
    """Requests that stay until they are told to leave, and the order in which they were let in."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: list[str] = []
        self.entered: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.doors: dict[str, asyncio.Event] = {}

    async def come(self, name: str, branches: int, key: str = "a", tokens: int = 1, **more: Any) -> None:
        """Begin to wait, and return when everyone has gone as far as they can."""
        self.doors[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self.stay(name, key, branches, tokens, **more))
        await settled()

    async def stay(self, name: str, key: str, branches: int, tokens: int, used: int = 1, **more: Any) -> None:
        async with self.admission.hold(key, branches, tokens, **more) as place:
            self.inside.append(name)
            self.entered.append(name)
            try:
                await self.doors[name].wait()
                place.used = used
            finally:
                self.inside.remove(name)

    async def leave(self, *names: str) -> None:
        for name in names:
            self.doors[name].set()
        await asyncio.gather(*(self.tasks[name] for name in names))
        await settled()

    async def abandon(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name] for name in names])
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def crowd(branches: int, queue: int = 10, tokens: int = MANY, **more: Any) -> AsyncIterator[Crowd]:
    """At the end everything that was held has been given back."""
    admission = Admission(branches, tokens, queue, **more)
    people = Crowd(admission)
    yield people
    for door in people.doors.values():
        door.set()
    await asyncio.gather(*people.tasks.values(), return_exceptions=True)
    assert (admission.free_branches, admission.free_tokens, admission.waiting) == (branches, tokens, 0)


async def test_in_the_engine_the_key_that_was_given_the_least_is_first() -> None:
    admission = Admission(64, MANY, 8)
    async with admission.hold("greedy", 40, 5000) as first, admission.hold("modest", 4, 200) as second:
        assert (first.priority, second.priority) == (0, 0)
        async with admission.hold("greedy", 4, 100) as third, admission.hold("modest", 4, 100) as fourth:
            assert (third.priority, fourth.priority) == (4900, 0)


async def test_one_key_is_served_in_order() -> None:
    async with crowd(4, keys=1) as people:
        for name, branches in (("first", 3), ("large", 4), ("small", 1)):
            await people.come(name, branches)
        assert people.inside == ["first"], "the small one would fit, but does not overtake"
        await people.leave("first")
        await people.leave("large")
    assert people.entered == ["first", "large", "small"]


async def test_more_than_there_is_holds_all() -> None:
    async with crowd(4, queue=0, tokens=100) as people:
        await people.come("huge", 64, tokens=1000)
        assert people.inside == ["huge"]
        await people.come("small", 1)
        with pytest.raises(ApiError, match="full"):
            await people.tasks["small"]


async def test_tokens_are_a_limit_of_their_own() -> None:
    async with crowd(100, tokens=100, keys=1) as people:
        await people.come("long", 1, tokens=80)
        await people.come("other", 1, tokens=30)
        assert people.inside == ["long"]
        await people.leave("long")
        assert people.inside == ["other"]


async def test_the_many_searches_of_one_key_leave_room_for_another() -> None:
    async with crowd(512, queue=100) as people:
        for number in range(20):
            await people.come(f"a{number}", 64, "a")
        assert len(people.inside) == 6, f"{6 * 64} of 512 are {SHARE} times what is left"
        await people.come("b", 64, "b")
        assert "b" in people.inside
        await people.come("c", 4, "c")
        assert "c" in people.inside


async def test_a_key_that_holds_nothing_may_take_all() -> None:
    async with crowd(8) as people:
        await people.come("all", 8)
        assert people.inside == ["all"]


async def test_who_was_given_least_is_next() -> None:
    async with crowd(4) as people:
        await people.come("a0", 4, "a", used=1000)
        await people.come("b0", 4, "b", used=10)
        await people.come("a1", 4, "a")
        await people.come("b1", 4, "b", used=10)
        await people.come("b2", 4, "b")
        await people.leave("a0")
        await people.leave("b0")
        await people.leave("b1")
        await people.leave("b2")
    assert people.entered == ["a0", "b0", "b1", "b2", "a1"], "b is given what a was given before, then a goes on"


async def test_idle_time_is_not_saved_up() -> None:
    async with crowd(4) as people:
        await people.come("a0", 4, "a", used=1000)
        await people.come("a1", 4, "a", used=1000)
        await people.leave("a0")
        await people.come("a2", 4, "a")
        await people.come("b0", 4, "b", used=10)  # comes when a has 1000 behind it, and begins there
        await people.come("b1", 4, "b")
        await people.leave("a1")
        await people.leave("b0")
        assert people.inside == ["b1"]
        assert people.admission.tenants["b"].settled == 1010


async def test_a_large_request_is_waited_for() -> None:
    async with crowd(8) as people:
        await people.come("a0", 3, "a")
        await people.come("b0", 8, "b")
        await people.come("a1", 1, "a")
        await people.come("c0", 1, "c", tokens=5)
        assert people.inside == ["a0"], "nobody takes the room that it waits for"
        await people.leave("a0")
        assert people.inside == ["b0"]


async def test_the_queue_is_bounded_and_shared() -> None:
    async with crowd(1, queue=4) as people:
        await people.come("a", 1, "a")
        for number in range(4):
            await people.come(f"a{number}", 1, "a")
        assert people.admission.waiting == 3, "the last place is for others"
        with pytest.raises(ApiError) as refused:
            await people.tasks["a3"]
        assert (refused.value.status, refused.value.code) == (429, "server_full")
        await people.come("b0", 1, "b")
        assert people.admission.waiting == 4
        await people.come("c0", 1, "c")
        assert people.tasks["c0"].done(), "there is no place left"
        people.tasks["c0"].exception()


async def test_retry_after_follows_the_rate_of_departures() -> None:
    clock = 0.0
    async with crowd(1, queue=100, keys=1, now=lambda: clock) as people:
        for number in range(12):
            await people.come(f"r{number}", 1)
        assert people.admission.retry_after() == 1, "nothing is known yet"
        clock = 30.0
        await people.leave("r0")
        assert people.admission.retry_after() == 120, "10 wait, one left in 30 s"
        clock = 33.0
        await people.leave(*(f"r{number}" for number in range(1, 10)))
        assert people.admission.retry_after() == 4, "1 waits, ten left in 33 s"
        headers = people.admission.full("why").headers
        assert headers == {"Retry-After": "4"}


async def test_who_waits_too_long_is_turned_away() -> None:
    async with crowd(1) as people:
        await people.come("a", 1)
        await people.come("b", 1, patience=0)
        with pytest.raises(ApiError, match="seconds went by"):
            await people.tasks["b"]


async def test_closing_turns_away_all_who_wait_and_come() -> None:
    async with crowd(1) as people:
        await people.come("a", 1)
        await people.come("b", 1)
        people.admission.close(shutting_down)
        await people.come("c", 1)
        for name in ("b", "c"):
            with pytest.raises(ApiError) as refused:
                await people.tasks[name]
            assert refused.value.status == 503
        assert people.inside == ["a"]


async def test_several_who_leave_at_once_do_not_hold_up_the_others() -> None:
    async with crowd(4, keys=1) as people:
        await people.come("first", 4)
        for name in ("x", "y", "z"):
            await people.come(name, 2)
        await people.come("last", 3)
        people.doors["first"].set()  # all of it in one turn of the loop
        await people.abandon("x", "y", "z")
        await people.leave("first")
        assert people.inside == ["last"]


async def test_cancelled_in_the_moment_of_entering_gives_its_place_back() -> None:
    async with crowd(1) as people:
        async with people.admission.hold("a", 1, 1):
            await people.come("second", 1)
        people.tasks["second"].cancel()  # it has been let in, and has not yet run
        await asyncio.wait([people.tasks["second"]])
        assert people.entered == []
        assert people.admission.free_branches == 1


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of coming, leaving and giving up; the loop runs only where a rule says so, so that races are found."""

    BRANCHES, TOKENS, QUEUE = 8, 100, 6

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.admission = Admission(self.BRANCHES, self.TOKENS, self.QUEUE, now=lambda: 0.0)
        self.inside: dict[int, Place] = {}
        self.doors: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def stay(self, number: int, key: str, branches: int, tokens: int) -> None:
        async with self.admission.hold(key, branches, tokens) as place:
            self.inside[number] = place
            try:
                await self.doors[number].wait()
            finally:
                del self.inside[number]

    def run(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(key=st.sampled_from("abc"), branches=st.integers(1, 12), tokens=st.integers(1, 150), turns=st.integers(0, 2))
    def come(self, key: str, branches: int, tokens: int, turns: int) -> None:
        number = len(self.tasks)
        self.doors[number] = asyncio.Event()
        self.tasks[number] = self.loop.create_task(self.stay(number, key, branches, tokens))
        self.run(turns)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), turns=st.integers(0, 2))
    def leave(self, data: st.DataObject, turns: int) -> None:
        self.doors[data.draw(st.sampled_from(sorted(self.tasks)))].set()
        self.run(turns)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), turns=st.integers(0, 2))
    def give_up(self, data: st.DataObject, turns: int) -> None:
        self.tasks[data.draw(st.sampled_from(sorted(self.tasks)))].cancel()
        self.run(turns)

    @invariant()
    def never_over_capacity(self) -> None:
        held = list(self.inside.values())
        assert sum(place.branches for place in held) <= self.BRANCHES - self.admission.free_branches <= self.BRANCHES
        assert sum(place.tokens for place in held) <= self.TOKENS - self.admission.free_tokens <= self.TOKENS
        assert self.admission.waiting <= self.QUEUE

    def teardown(self) -> None:
        """When all who are inside leave, all who wait come in, and in the end nothing is lost."""
        self.run(5)
        for door in self.doors.values():
            door.set()
        if self.tasks:
            self.loop.run_until_complete(asyncio.wait_for(asyncio.wait(self.tasks.values()), 10))
        failed = [error for task in self.tasks.values() if not task.cancelled() and (error := task.exception())]
        assert all(isinstance(error, ApiError) for error in failed)
        assert (self.admission.free_branches, self.admission.free_tokens) == (self.BRANCHES, self.TOKENS)
        assert self.admission.waiting == 0
        self.loop.close()


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
