"""POST /v1/chat/completions: the one endpoint that thinks longer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from service.chat.execution import Execution, dry_run
from service.chat.order import Order, create_order, refuse
from service.chat.passthrough import forward
from service.context import Context, ContextDep, RequestInfoDep
from service.errors import ApiError
from service.registry.presets import Preset
from service.web.bodies import Stream, read_object, unless_gone
from service.web.middleware import RequestInfo
from service.wire.chat import OURS
from service.wire.described import COMPLETION, FORWARDED, PLAN, chat_request, errors, replies, takes

log = logging.getLogger(__name__)
PATH = "/v1/chat/completions"
NONE = "none"
"""As a strategy: pass this request through, whatever the server's default strategy is."""


class ChatRoute(APIRoute):
    """Describes the strategies and scorers that there are when an application includes it."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **{**options, "openapi_extra": takes(chat_request())})


router = APIRouter(route_class=ChatRoute)


@router.post(
    PATH,
    tags=["chat"],
    responses=replies(COMPLETION, PLAN, events=True) | errors(*FORWARDED),
)
async def create_chat_completion(request: Request, context: ContextDep, seen: RequestInfoDep) -> Response:
    """OpenAI's chat completions, plus `strategy`, `budget`, `answer`, `include` and `dry_run`.

    Without a strategy the request is vLLM's as it is, streaming included.
    """
    body, raw = await read_object(request, context.settings.max_body_bytes)
    if context.settings.log_prompts:
        log.info("prompt", extra={"messages": body.get("messages")})
    refuse(body, seen.caller == "admin")
    model, preset = await resolve_names(context, body)
    if body.get("strategy") == NONE:
        body, preset = {name: value for name, value in body.items() if name != "strategy"}, None
        raw = orjson.dumps(body)
    if preset is None and body.get("strategy") is None:
        check_plain(body)
        return await forward(request, context, seen, PATH, body, raw, model)
    order = await create_order(body, model, preset, context, seen.account)
    seen.strategy = order.strategy.type
    return await answer(request, context, order, seen)


async def resolve_names(context: Context, body: dict[str, Any]) -> tuple[str, Preset | None]:
    """The model and the preset: the body's own, or the server's default."""
    model, preset = await context.models.resolve_served(body.get("model"))
    default = context.settings.default_strategy
    return model, preset or (context.models.presets[default] if default else None)


def check_plain(body: dict[str, Any]) -> None:
    """What a request without a strategy cannot have, and what vLLM would let pass."""
    for name in sorted(OURS & body.keys() - {"strategy"}):
        if body[name]:
            raise ApiError(400, f"{name} needs a strategy: add `strategy`, or a preset to the model's name", name)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: must be an array of at least one message", "messages")


async def answer(request: Request, context: Context, order: Order, seen: RequestInfo) -> Response:
    session_id = request.scope["request_id"]
    if order.dry_run:
        plan = await unless_gone(request, dry_run(context, order, session_id))
        return Response(orjson.dumps(plan), media_type="application/json")
    run = Execution(context, order, session_id, seen)
    if order.stream:
        return await begin_stream(request, run)
    return Response(await unless_gone(request, run.whole()), media_type="application/json")


async def begin_stream(request: Request, run: Execution) -> Response:
    """A stream that has begun: what fails before its first byte still has a status of its own."""
    source = run.stream()
    try:
        first = await unless_gone(request, anext(source))
    except BaseException:
        await source.aclose()
        raise

    return Stream(source, first)
