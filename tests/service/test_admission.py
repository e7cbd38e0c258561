"""Who may enter, and in which order."""

from __future__ import annotations

import asyncio

import pytest

from service.admission import Admission
from service.errors import ApiError


async def entered(admission: Admission, branches: int, log: list[int], leave: asyncio.Event) -> None:
    async with admission.hold(branches):
        log.append(branches)
        await leave.wait()


async def test_first_come_first_served_by_branches() -> None:
    admission, leave = Admission(4, 10), asyncio.Event()
    log: list[int] = []
    tasks = [asyncio.create_task(entered(admission, n, log, leave)) for n in (3, 4, 1)]
    await asyncio.sleep(0)
    assert log == [3], "the 1 would fit, but does not overtake the 4"
    leave.set()
    await asyncio.gather(*tasks)
    assert log == [3, 4, 1]
    assert admission.free == 4


async def test_more_than_there_is_holds_all() -> None:
    admission = Admission(4, 0)
    async with admission.hold(64):
        assert admission.free == 0
        with pytest.raises(ApiError, match="full"):
            await admission.hold(1).__aenter__()
    assert admission.free == 4


async def test_who_leaves_the_queue_makes_room() -> None:
    admission, leave = Admission(2, 1), asyncio.Event()
    log: list[int] = []
    first = asyncio.create_task(entered(admission, 2, log, leave))
    await asyncio.sleep(0)
    second = asyncio.create_task(entered(admission, 1, log, leave))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert not admission.waiting
    third = asyncio.create_task(entered(admission, 1, log, leave))
    leave.set()
    await asyncio.gather(first, third)
    assert log == [2, 1]


async def test_cancelled_in_the_moment_of_entering_gives_its_place_back() -> None:
    admission, leave = Admission(1, 5), asyncio.Event()
    log: list[int] = []
    first = asyncio.create_task(entered(admission, 1, log, leave))
    await asyncio.sleep(0)
    second = asyncio.create_task(entered(admission, 1, log, leave))
    await asyncio.sleep(0)
    admission.free += 1  # as if the first had left, without yet running
    admission.admit()
    second.cancel()
    await asyncio.wait({second})
    leave.set()
    await first
    assert admission.free == 2


async def test_several_who_leave_at_once_do_not_hold_up_the_others() -> None:
    admission, leave = Admission(4, 10), asyncio.Event()
    log: list[int] = []
    first = asyncio.create_task(entered(admission, 4, log, leave))
    await asyncio.sleep(0)
    leaving = [asyncio.create_task(entered(admission, 2, log, leave)) for _ in range(3)]
    last = asyncio.create_task(entered(admission, 3, log, leave))
    await asyncio.sleep(0)
    for task in leaving:
        task.cancel()
    leave.set()  # all of it in one turn of the loop
    await asyncio.gather(first, last)
    assert log == [4, 3]
    assert admission.free == 4
