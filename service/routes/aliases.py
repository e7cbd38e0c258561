"""Names that stand for a model and can be moved: from one version of a checkpoint to the next, and back.

A request that has begun keeps the model that its name stood for then.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from service.context import ADMINS, Context, ContextDep
from service.errors import ApiError
from service.jobs import Alias
from service.schema import Strict
from service.web.bodies import read_object, unless_gone
from service.wire.described import FOR_ADMINS
from service.wire.fine_tuning import validate_as

router = APIRouter(prefix="/v1/aliases", tags=["models"], dependencies=ADMINS, responses=FOR_ADMINS)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


class PutAlias(Strict):
    model: str


@router.put("/{name:path}")
async def put_alias(name: str, request: Request, context: ContextDep) -> dict[str, Any]:
    """Let a name stand for a model from the next request on; returns the alias.

    A checkpoint that has weights of its own is started first: until it answers, the name stands for what it stood for.
    """
    raw, _ = await read_object(request, context.settings.max_body_bytes)
    body: PutAlias = validate_as(PutAlias, raw)
    check_name(name, context)
    model = await context.models.require(body.model, "model")
    context.models.check_served(model, "model")
    backend = await unless_gone(request, context.shutdown.within_deadline(context.backends.serving(model)))
    if backend is not context.backends.base:
        backend.check()  # down or restarting: there is nothing to move the name to
    if context.models.lookup(model) is None:  # deleted meanwhile
        raise ApiError(404, f"the model {body.model!r} does not exist", "model", "model_not_found")
    alias = await run_in_threadpool(context.store.point, name, model)
    await context.models.reload()
    return alias_object(alias)


def check_name(name: str, context: Context) -> None:
    if not NAME.fullmatch(name):
        raise ApiError(400, f"name: must be of letters, digits and . _ / -, at most 128, not {name!r}", "name")
    if name in context.models.listed:
        raise ApiError(400, f"name: {name} is a model of the engine", "name")


@router.get("")
def list_aliases(context: ContextDep) -> dict[str, Any]:
    """All aliases, by name."""
    return {"object": "list", "data": [alias_object(alias) for alias in context.store.aliases()]}


@router.get("/{name:path}")
def retrieve_alias(name: str, context: ContextDep) -> dict[str, Any]:
    """What an alias stands for."""
    return alias_object(context.store.alias(name))


@router.delete("/{name:path}")
async def delete_alias(name: str, context: ContextDep) -> dict[str, Any]:
    """Forget an alias; the model stays."""
    await run_in_threadpool(context.store.delete_alias, name)
    await context.models.reload()
    return {"id": name, "object": "alias", "deleted": True}


def alias_object(alias: Alias) -> dict[str, Any]:
    return {"id": alias.name, "object": "alias", "model": alias.model, "updated_at": alias.updated_at}
