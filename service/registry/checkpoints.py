"""Deleting a checkpoint: its record, then what the engine has loaded, then its folder."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from uuid import uuid4

import httpx
import orjson

from service.engines.backend import Backend
from service.errors import ApiError
from service.jobs import Checkpoint, Missing
from service.registry.models import Models
from strategies.errors import EngineError

log = logging.getLogger(__name__)


async def delete(models: Models, name: str) -> None:
    """Delete a checkpoint by its name; raise ApiError when there is none, Conflict while an alias stands for it."""
    store = models.store
    if name in models.bundled:
        raise ApiError(400, f"model: {name} comes with Outthink and cannot be deleted", "model")
    try:
        checkpoint = await asyncio.to_thread(store.checkpoint, name)
    except Missing:
        if models.lookup(name) is not None:
            raise ApiError(400, f"model: {name} is no checkpoint; only those can be deleted", "model") from None
        raise ApiError(404, f"the model {name!r} does not exist", "model", "model_not_found") from None
    await asyncio.to_thread(store.delete_checkpoint, name)
    await models.reload()
    await unload(models.backends.base, name)
    await asyncio.to_thread(remove, store.folder, checkpoint)


async def unload(backend: Backend, name: str) -> None:
    """Have the engine forget an adapter. That it has not loaded it, or is down, is no fault."""
    body = orjson.dumps({"lora_name": name})
    try:
        with backend.request() as client:
            async with client.open("POST", "/v1/unload_lora_adapter", body) as response:
                await response.aread()
    except (EngineError, httpx.HTTPError) as error:
        log.info("%s was not unloaded: %s", name, error)


def remove(folder: Path, checkpoint: Checkpoint) -> None:
    """Remove the folder that the record names, which must be a checkpoint's; it is gone at once or not at all."""
    target = (folder / checkpoint.path).resolve()
    if target.parent != (folder / "checkpoints").resolve():
        raise ValueError(f"{checkpoint.path} is not in the folder of checkpoints")
    if target.is_dir():
        doomed = target.with_name(f".{uuid4().hex}.deleted")
        target.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
