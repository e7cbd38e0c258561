"""How many parameters a checkpoint has, read from the headers of its safetensors files; nothing is loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path


def count_parameters(folder: Path) -> int | None:
    """The parameters of a local checkpoint; None for a folder that is not here, or has no safetensors."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_absolute() and folder.is_dir() else []
    return sum(map(count_in_file, files)) or None


def count_in_file(file: Path) -> int:
    """A safetensors file begins with the length of its header (8 bytes, little-endian) and the header, in JSON."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
