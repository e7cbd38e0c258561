"""Which models there are: the engine's base models and adapters, and every one of them with every preset."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from service.engines.vllm import VllmClient
from service.errors import ApiError
from service.presets import Preset
from strategies.errors import EngineError, EngineUnavailable

REFRESH_SECONDS = 2.0  # an adapter is found this long after it appeared, and strangers' names cost no more calls


class Catalogue:
    """Remembers the engine's models, so that it answers at once also while the engine is down."""

    def __init__(self, client: VllmClient, presets: Mapping[str, Preset], name: str) -> None:
        self.client = client
        self.presets = presets
        self.models: dict[str, dict[str, Any]] = {}
        self.refreshed = float("-inf")
        if name:
            self.models[name] = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "outthink"}

    @property
    def default(self) -> str:
        """The first base model, for requests that name none."""
        return next(iter(self.models), "")

    async def refresh(self) -> None:
        """Ask the engine; what it said last stands when it does not answer."""
        self.refreshed = time.monotonic()
        try:
            listed = await self.client.models()
        except EngineError:
            return
        self.models = {model["id"]: model | {"owned_by": "outthink"} for model in listed} or self.models

    async def known(self, name: str) -> bool:
        if name not in self.models and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            await self.refresh()
        return name in self.models

    async def resolve(self, name: object) -> tuple[str, Preset | None]:
        """The model and the preset that a name means: split at the last `@`, only when the whole name is unknown."""
        if name is not None and not isinstance(name, str):
            raise ApiError(400, f"model: must be a string, not {name!r}", "model")
        if not self.models:
            await self.refresh()
        if not self.models:
            raise EngineUnavailable("the engine has not yet said which models it serves")
        if not name:
            return self.default, None
        if await self.known(name):
            return name, None
        base, at, preset = name.rpartition("@")
        if at and base in self.models:
            if preset in self.presets:
                return base, self.presets[preset]
            allowed = ", ".join(self.presets)
            raise ApiError(404, f"there is no preset {preset!r}; there are {allowed}", "model", "model_not_found")
        known = ", ".join(self.models)
        raise ApiError(404, f"the model {name!r} does not exist; there are {known}", "model", "model_not_found")

    def listing(self) -> list[dict[str, Any]]:
        """Every name that a client may send, in OpenAI's shape; a preset names its base as `parent`."""
        plain = list(self.models.values())
        return plain + [self.with_preset(model, preset) for model in plain for preset in self.presets]

    def with_preset(self, model: Mapping[str, Any], preset: str) -> dict[str, Any]:
        kept = {key: model[key] for key in ("object", "created", "owned_by", "max_model_len") if key in model}
        return {"id": f"{model['id']}@{preset}", **kept, "root": model["id"], "parent": model["id"]}

    async def entry(self, name: str) -> dict[str, Any]:
        base, preset = await self.resolve(name)
        return self.with_preset(self.models[base], preset.name) if preset else self.models[base]
