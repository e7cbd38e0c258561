"""A journal that is killed at every write: what was acknowledged is there, and going on works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from service.jobs.journal import Journal

ENTRIES = [{"number": number, "text": "é" * number} for number in range(5)]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "folder" / "journal.jsonl")


def test_what_was_appended_is_read_in_order(journal: Journal) -> None:
    assert list(journal) == []
    journal.append(ENTRIES[:2])
    journal.append(ENTRIES[2:])
    assert list(journal) == ENTRIES
    journal.delete()
    assert list(journal) == []


def test_a_file_that_was_torn_anywhere_holds_its_whole_entries(journal: Journal) -> None:
    journal.append(ENTRIES)
    whole = journal.path.read_bytes()
    ends = [end for end, byte in enumerate(whole, 1) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        journal.path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        assert list(journal) == ENTRIES[:kept], "a reader sees whole entries only"
        journal.recover()
        journal.append(ENTRIES[kept:])
        assert journal.path.read_bytes() == whole


def test_a_reader_sees_what_was_there_when_it_began(journal: Journal) -> None:
    """A torn line is cut, and another one written in its place, while somebody reads."""
    journal.append(ENTRIES[:2])
    with journal.path.open("ab") as file:
        file.write(b'{"number": 99, "te')
    reader = journal.lines()
    first = next(reader)
    journal.recover()
    journal.append(ENTRIES[2:])
    assert [first, *reader] == list(journal.lines())[:2]


def system_calls(monkeypatch: pytest.MonkeyPatch, step: Callable[[str, Any], None]) -> None:
    """Have every call that reaches the disk pass by `step` first."""
    for name in ("write", "fsync"):
        call = getattr(os, name)

        def passed(*args: Any, name: str = name, call: Callable[..., Any] = call) -> Any:
            step(name, args)
            return call(*args)

        monkeypatch.setattr(os, name, passed)


def killed_at(number: int) -> Callable[[str, Any], None]:
    calls = count()

    def step(name: str, args: Any) -> None:
        if next(calls) == number:
            if name == "write":
                os.pwrite(args[0], bytes(args[1])[:7], os.fstat(args[0]).st_size)  # half of it
            raise Killed

    return step


def test_what_was_acknowledged_outlives_a_kill_at_every_write(tmp_path: Path) -> None:
    for number in range(2 * len(ENTRIES) + 2):
        journal = Journal(tmp_path / str(number) / "journal.jsonl")
        done: list[Any] = []
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            system_calls(patch, killed_at(number))
            for entry in ENTRIES:
                journal.append([entry])
                done.append(entry)
        assert list(journal)[: len(done)] == done
        journal.recover()
        journal.append(ENTRIES[len(list(journal)) :])
        assert list(journal) == ENTRIES


def test_a_full_disk_leaves_nothing_behind(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append(ENTRIES[:1])

    def full(name: str, args: Any) -> None:
        os.pwrite(args[0], b"{", os.fstat(args[0]).st_size)
        raise OSError("No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        system_calls(patch, full)
        with pytest.raises(OSError, match="No space"):
            journal.append(ENTRIES[1:])
    journal.append(ENTRIES[1:])
    assert list(journal) == ENTRIES


WRITER = """
import sys
from pathlib import Path
from service.jobs.journal import Journal
journal = Journal(Path(sys.argv[1]))
journal.recover()
number = len(list(journal))
while True:
    journal.append([{"number": number, "text": "x" * 5000}])
    number += 1
    print(number, flush=True)
"""


def acknowledged(lines: Iterator[bytes], least: int) -> int:
    last = 0
    while last < least:
        last = int(next(lines))
    return last


def test_sigkill_loses_nothing(journal: Journal) -> None:
    for least in (20, 40, 60):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(journal.path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process:
            done = acknowledged(iter(process.stdout), least)
            process.send_signal(signal.SIGKILL)
        assert [entry["number"] for entry in journal][:done] == list(range(done))
