"""What there is and how it is: models, strategies, health, metrics, documentation."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.context import ADMINS, ContextDep
from service.errors import ApiError
from service.registry import checkpoints
from service.web.shutdown import shutting_down
from service.wire import scorer, strategy
from service.wire.described import FOR_ADMINS, errors

router = APIRouter(tags=["about the server"])


@router.get("/v1/models", responses=errors())
async def list_models(context: ContextDep) -> dict[str, Any]:
    """Base models, checkpoints, and each with every preset (`model@preset`)."""
    return {"object": "list", "data": context.models.listing()}


@router.get("/v1/models/{model:path}", responses=errors(404))
async def retrieve_model(model: str, context: ContextDep) -> dict[str, Any]:
    """One of them, by the name that a request would send."""
    return await context.models.entry(model)


@router.delete("/v1/models/{model:path}", dependencies=ADMINS, responses=FOR_ADMINS)
async def delete_model(model: str, context: ContextDep) -> dict[str, Any]:
    """Delete a checkpoint: no request finds it from now on; those that run keep it."""
    await checkpoints.delete(context.models, model)
    return {"id": model, "object": "model", "deleted": True}


@router.get("/v1/strategies", responses=errors())
async def list_strategies(context: ContextDep) -> dict[str, Any]:
    """Every strategy with its parameters as JSON schema, its paper and its cost; the presets and the scorers."""
    presets = {name: strategy.describe(preset.strategy) for name, preset in context.models.presets.items()}
    scorers = [*context.scorers.names, *context.models.verifiers]
    return {
        "object": "list",
        "data": strategy.catalogue(),
        "presets": presets,
        "scorers": scorers,
        "scorer_types": scorer.catalogue(),
    }


@router.get("/health")
async def health() -> dict[str, str]:
    """The service is alive, whatever the engine does."""
    return {"status": "ok"}


@router.get("/ready", responses=errors())
async def ready(context: ContextDep) -> Response:
    """200 when a request would be answered now."""
    if context.shutdown.begun:
        return shutting_down().response()
    backends = context.backends
    if backends.base.up:
        scorers = {name: backend.detail for name, backend in backends.rewards.items()}
        full = backends.fleet.details if backends.fleet else {}
        ready = {"status": "ready", "model": context.models.default, "scorers": scorers, "checkpoints": full}
        return JSONResponse(ready)
    return ApiError(503, f"the engine is not ready: {backends.base.detail}", None, "engine_unavailable").response()


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(context: ContextDep) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(context.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Swagger UI from this server's own files, so that it works without internet."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Outthink",
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon-32x32.png",
    )


@router.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    return RedirectResponse("/docs")
