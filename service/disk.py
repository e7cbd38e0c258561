"""What lasts on a disk, and who may read it: names that outlive a power cut, folders that are their owner's alone."""

from __future__ import annotations

import os
import time
from pathlib import Path


def sync(path: Path) -> None:
    """Return when a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Give a file or a folder its name for good. A name is in the folder that lists it, which has to be synced too."""
    source.replace(target)
    sync(target.parent)


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder where there is none, and those above it, for good; the mode is of the last one."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode, exist_ok=True)
    sync(folder.parent)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there already stays as it is."""
    make_folder(folder, 0o700)


def open_to_others(path: Path) -> bool:
    """Whether another user than the owner may read a file or enter a folder, or write there."""
    return bool(path.stat().st_mode & 0o077)


def untouched(path: Path, seconds: float) -> bool:
    """Whether nothing was written there for so long; what is gone meanwhile is not there to be untouched."""
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False
