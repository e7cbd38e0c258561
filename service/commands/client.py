"""What the commands that talk to a running server share: the connection, uploads, and errors for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console

Url = Annotated[str, typer.Option(envvar="OUTTHINK_URL", help="The server.")]
Key = Annotated[str, typer.Option(envvar="OUTTHINK_API_KEY", help="An admin key, where the server has keys.")]


class CommandError(Exception):
    """What is wrong with a file, the flags or the server, for people."""


def fail(message: str, code: int) -> NoReturn:
    Console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@contextmanager
def connect(url: str, key: str) -> Iterator[httpx.Client]:
    """A client of the server; what goes wrong in the block ends the command with a line and exit code 2."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    base = url.rstrip("/").removesuffix("/v1")
    with httpx.Client(base_url=f"{base}/v1", headers=headers, timeout=120, trust_env=False) as client:
        try:
            yield client
        except CommandError as error:
            fail(str(error), 2)
        except httpx.TransportError as error:
            fail(f"no answer from {base}: {error}", 2)


def read_reply(response: httpx.Response) -> dict[str, Any]:
    """The reply; raise Wrong with what the server says is wrong."""
    try:
        body: dict[str, Any] = response.json()
    except ValueError:
        raise CommandError(
            f"{response.url} answered {response.status_code} and no JSON: is this an Outthink server?"
        ) from None
    if response.status_code >= 400:
        raise CommandError(body["error"]["message"] if "error" in body else f"{response.url}: {response.status_code}")
    return body


def upload_file(client: httpx.Client, path: Path, purpose: str, what: str) -> str:
    """Upload a file and return its id; `what` is what the user called it."""
    try:
        with path.open("rb") as file:
            reply = client.post("/files", data={"purpose": purpose}, files={"file": (path.name, file)})
    except OSError as error:
        raise CommandError(f"{what}: {error}") from error
    return str(read_reply(reply)["id"])
