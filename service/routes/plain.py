"""The endpoints that are vLLM's alone. Strategies belong to chat completions, and are refused here by name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.chat.order import refuse
from service.chat.passthrough import forward
from service.context import Context, ContextDep, RequestInfoDep
from service.errors import ApiError
from service.web.bodies import read_object
from service.web.middleware import RequestInfo
from service.wire.described import ANYTHING, FORWARDED, errors, replies, takes

router = APIRouter(tags=["passed through to vLLM"])
PASSED: dict[str, Any] = {
    "responses": replies(ANYTHING, events=True) | errors(*FORWARDED),
    "openapi_extra": takes(ANYTHING),
}


@router.post("/v1/completions", **PASSED)
async def create_completion(request: Request, context: ContextDep, seen: RequestInfoDep) -> Response:
    """OpenAI's completions, as vLLM has them."""
    return await pass_through(request, context, seen, "/v1/completions")


@router.post("/v1/responses", **PASSED)
async def create_response(request: Request, context: ContextDep, seen: RequestInfoDep) -> Response:
    """OpenAI's responses, as vLLM has them."""
    return await pass_through(request, context, seen, "/v1/responses")


@router.post("/v1/embeddings", **PASSED)
async def create_embedding(request: Request, context: ContextDep, seen: RequestInfoDep) -> Response:
    """OpenAI's embeddings, where the engine serves a model that makes them."""
    return await pass_through(request, context, seen, "/v1/embeddings")


@router.post("/tokenize", **PASSED)
async def tokenize(request: Request, context: ContextDep, seen: RequestInfoDep) -> Response:
    """vLLM's tokenizer: the ids of a prompt or of a conversation."""
    return await pass_through(request, context, seen, "/tokenize")


async def pass_through(request: Request, context: Context, seen: RequestInfo, path: str) -> Response:
    body, raw = await read_object(request, context.settings.max_body_bytes)
    refuse(body, seen.caller == "admin")
    return await forward(request, context, seen, path, body, raw, await plain_model(context, body))


async def plain_model(context: Context, body: dict[str, Any]) -> str:
    """The model; raise ApiError where a strategy was meant."""
    unsupported = "strategies work on /v1/chat/completions only"
    for field in ("strategy", "budget"):
        if body.get(field) is not None:
            raise ApiError(400, f"{field}: {unsupported}", field, "unsupported_strategy")
    name = body.get("model")
    model, preset = await context.models.resolve_served(name)
    if preset is not None:
        raise ApiError(400, f"model: {name} names a strategy; {unsupported}", "model", "unsupported_strategy")
    return model
