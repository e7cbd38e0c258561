"""A file of JSON lines that is only appended to and outlives a crash: work that was done is not done again.

What `append` has returned for is on disk. A crash leaves at most half a line behind the last whole one; it is no entry,
and `recover` cuts it off before the file is written to again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from service.disk import make_folder, sync

BLOCK = 1 << 16


class Journal:
    """One writer at a time; readers see whole lines only, also while it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add entries, and return when they are on disk: all of them or, on an error, none."""
        lines = b"".join(orjson.dumps(entry) + b"\n" for entry in entries)
        new = not self.path.exists()
        make_folder(self.path.parent)
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                write_all(file.fileno(), lines)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
        if new:
            sync(self.path.parent)

    def lines(self) -> Iterator[bytes]:
        """The entries so far, as they were written."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            left = end_of_lines(file)  # what is behind it may be cut, and written anew, while this reads
            file.seek(0)
            while left > 0:
                line = file.readline()
                left -= len(line)
                yield line

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The entries so far."""
        return map(orjson.loads, self.lines())

    def recover(self) -> None:
        """Cut off half a line at the end, so that the next one begins on its own."""
        if self.path.exists():
            with self.path.open("rb+") as file:
                file.truncate(end_of_lines(file))
                os.fsync(file.fileno())

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)


def end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(end - BLOCK, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def write_all(descriptor: int, data: bytes) -> None:
    """`os.write` may take a part of it only."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
