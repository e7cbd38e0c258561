"""Random secrets, each in a file of the data directory that only its owner can read.

So all processes of one data directory, replicas and training workers among them, know the same ones.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def read_secret(folder: Path, name: str) -> str:
    """The secret of this name, made by whoever asks for it first."""
    path = folder / name
    if not path.exists():
        write_secret(path)
    return path.read_text().strip()


def write_secret(path: Path) -> None:
    """Create the file whole, by a link to a finished one: nobody reads half a secret, and the first writer wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, finished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
        with suppress(FileExistsError):
            os.link(finished, path)
    finally:
        Path(finished).unlink()
