"""Random secrets, each in a file of the data directory that only its owner can read.

So all processes of one data directory, replicas and training workers among them, know the same ones.
"""

import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from service.disk import make_private, open_to_others, sync

log = logging.getLogger(__name__)


def read_secret(folder: Path, name: str) -> str:
    """The secret of this name, made by whoever asks for it first."""
    path = folder / name
    if not path.exists():
        write_secret(path)
    if open_to_others(path):
        close_to_others(path)
    return path.read_text().strip()


def close_to_others(path: Path) -> None:
    """Take from others what a copy, or somebody's chmod, has given them."""
    try:
        path.chmod(0o600)
    except OSError as error:
        log.warning("others may read the secret in %s: %s", path, error)


def write_secret(path: Path) -> None:
    """Create the file whole, by a link to a finished one: nobody reads half a secret, and the first writer wins."""
    make_private(path.parent)
    descriptor, finished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(finished, path)
        sync(path.parent)
    finally:
        Path(finished).unlink()
