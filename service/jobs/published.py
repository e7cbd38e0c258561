"""Published folders of weights: checksummed, on the disk, and then in place by one rename.

A published folder is `<data>/checkpoints/<name>`. The engine's resolver loads an adapter from there by its name, so a
folder must never be seen half written, and a name never stands for two different weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.disk import make_folder, rename, sync

MARKER = "outthink.json"
"""Written last; holds what the checkpoint is and the checksums of its files."""
CONFIG = "adapter_config.json"
CHUNK = 1 << 20

Act = Callable[[Path], object]


def publish(target: Path, write: Act, check: Act, about: dict[str, Any]) -> str:
    """Put what `write` writes and `check` accepts at `target`; return the checksum of its weights.

    A whole folder that is there already, from a worker that died just after, is kept.
    """
    if whole(target):
        return checksum(target)
    make_folder(target.parent)
    partial = target.parent / f".{target.name}.{uuid4().hex}.partial"
    partial.mkdir()
    try:
        write(partial)
        check(partial)
        sums = {str(path.relative_to(partial)): sha256(path) for path in files(partial)}
        (partial / MARKER).write_text(json.dumps({**about, "sha256": sums}, indent=1))
        for path in (*files(partial), partial):
            sync(path)
        shutil.rmtree(target, ignore_errors=True)  # not whole, so of no use
        rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return checksum(target)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def whole(folder: Path) -> bool:
    """Whether a folder holds what its marker says, to the byte."""
    try:
        sums: dict[str, str] = json.loads((folder / MARKER).read_text())["sha256"]
        return all(sha256(folder / name) == digest for name, digest in sums.items())
    except (OSError, ValueError, KeyError):
        return False


def checksum(folder: Path) -> str:
    """Of the weights: that of their file, or over those of several."""
    sums: dict[str, str] = json.loads((folder / MARKER).read_text())["sha256"]
    weights = [digest for name, digest in sorted(sums.items()) if name.endswith(".safetensors")]
    return weights[0] if len(weights) == 1 else hashlib.sha256("".join(weights).encode()).hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
