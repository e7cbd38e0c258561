"""Which models there are: the engine's own, checkpoints, aliases, and every one of them with every preset.

A name reaches the engine only when the engine has listed it or the store has a checkpoint of that name: the engine's
resolver makes a folder's name of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from service.engines.backends import Backends
from service.errors import ApiError
from service.jobs import Checkpoint, Store
from service.jobs.methods import METHODS
from service.jobs.training import ROLLOUTS
from service.registry.presets import Preset
from service.threads import in_thread
from strategies.errors import EngineError, EngineUnavailable

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0  # an adapter is found this long after it appeared, and unknown names cost no more calls
FOLLOW_SECONDS = 1.0  # how long another process's move of an alias, or deletion of a checkpoint, may go unseen


class Models:
    """Remembers all names, so that it answers at once also while the engine is down."""

    def __init__(
        self,
        backends: Backends,
        presets: Mapping[str, Preset],
        store: Store,
        bundled: Mapping[str, Checkpoint] | None = None,
    ) -> None:
        """`bundled` are the checkpoints that come with the product, which are in no store."""
        self.backends = backends
        self.presets = presets
        self.store = store
        self.bundled = bundled or {}
        self.checkpoints: dict[str, Checkpoint] = {}
        self.deleted: frozenset[str] = frozenset()
        self.aliases: dict[str, str] = {}
        self.refreshed = float("-inf")
        self.silence = ""  # why the engine did not say its models when it was asked last
        self.reloading = asyncio.Lock()

    @property
    def listed(self) -> dict[str, dict[str, Any]]:
        """What the engine lists, without the adapters of a training's rollouts."""
        models = self.backends.base.models
        return {name: model | {"owned_by": "outthink"} for name, model in models.items() if ROLLOUTS not in name}

    @property
    def default(self) -> str:
        """The first base model, for requests that name none."""
        return next(iter(self.listed), "")

    async def refresh(self) -> None:
        """Ask the engine; what it said last stands when it does not answer."""
        self.refreshed = time.monotonic()
        try:
            await self.backends.base.list_models()
            self.silence = ""
        except EngineError as error:
            self.silence = str(error)

    async def reload(self) -> None:
        """Read checkpoints and aliases from the store; what it said last stands when it does not answer."""
        async with self.reloading:  # else an older reading could overwrite a newer one
            await self._reload()

    async def _reload(self) -> None:
        try:
            found = await in_thread(self.store.checkpoints, deleted=True)
            aliases = await in_thread(self.store.aliases)
        except SQLAlchemyError as error:
            log.warning("the store cannot be read: %s", error)
            return
        ours = {checkpoint.name: checkpoint for checkpoint in found if checkpoint.deleted_at is None}
        self.checkpoints = {**ours, **self.bundled}
        self.deleted = frozenset(checkpoint.name for checkpoint in found if checkpoint.deleted_at is not None)
        self.aliases = {alias.name: alias.model for alias in aliases}

    async def follow(self) -> None:
        """Keep up with the store for ever: other processes write to it too."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await self.reload()

    def lookup(self, name: str) -> str | None:
        """The model that a name or an alias stands for, of those that are known now."""
        if name in self.deleted:
            return None
        if name in self.checkpoints or name in self.listed:
            return name
        model = self.aliases.get(name)
        return model if model in self.checkpoints or model in self.listed else None

    async def require(self, name: str, param: str) -> str:
        """The model that a name stands for; raise ApiError, or EngineUnavailable where only the engine could tell."""
        if (model := await self.find(name)) is not None:
            return model
        self.check_heard(name)
        raise ApiError(404, f"the model {name!r} does not exist", param, "model_not_found")

    def check_heard(self, name: str) -> None:
        """Raise EngineUnavailable for a name that is not known, while the engine does not say which ones it has."""
        if self.silence and name not in self.deleted:
            known = f"{name!r} is none of the models that are known"
            raise EngineUnavailable(f"{known}, and the engine does not say its own: {self.silence}")

    async def find(self, name: str) -> str | None:
        """The model that a name stands for, looked for anew when it is not known."""
        if (model := self.lookup(name)) is not None:
            return model
        if "@" not in name:  # neither checkpoints nor aliases have one
            await self.reload()
        if self.lookup(name) is None and time.monotonic() - self.refreshed > REFRESH_SECONDS:
            await self.refresh()
        return self.lookup(name)

    async def resolve(self, name: object) -> tuple[str, Preset | None]:
        """The model and the preset that a name means: split at the last `@`, only when the whole name is unknown."""
        if name is not None and not isinstance(name, str):
            raise ApiError(400, f"model: must be a string, not {name!r}", "model")
        if not self.listed:
            await self.refresh()
        if not self.listed:
            why = f": {self.silence}" if self.silence else ""
            raise EngineUnavailable(f"the engine has not yet said which models it serves{why}")
        if not name:
            return self.default, None
        if (model := await self.find(name)) is not None:
            return model, None
        base, at, preset = name.rpartition("@")
        if at and (model := await self.find(base)) is not None:
            if preset in self.presets:
                return model, self.presets[preset]
            allowed = ", ".join(self.presets)
            raise ApiError(404, f"there is no preset {preset!r}; there are {allowed}", "model", "model_not_found")
        self.check_heard(name)
        known = ", ".join(entry["id"] for entry in self.without_presets())
        raise ApiError(404, f"the model {name!r} does not exist; there are {known}", "model", "model_not_found")

    async def resolve_served(self, name: object) -> tuple[str, Preset | None]:
        """The model and the preset of a request that generates; raise ApiError for weights that are not served here."""
        model, preset = await self.resolve(name)
        self.check_served(model, "model")
        return model, preset

    @property
    def verifiers(self) -> list[str]:
        """The checkpoints that are scorers."""
        return [name for name, checkpoint in self.checkpoints.items() if METHODS[checkpoint.method].scorer]

    def full_weights_folder(self, model: str) -> Path | None:
        """Where the weights of a checkpoint are that is no adapter; None for all that the base's engine serves."""
        checkpoint = self.checkpoints.get(model)
        if checkpoint is None or checkpoint.form == "adapter" or model in self.listed:
            return None
        return self.store.folder / checkpoint.path

    def check_served(self, model: str, param: str) -> None:
        """Raise ApiError for weights that this server does not load."""
        checkpoint = self.checkpoints.get(model)
        if checkpoint is not None and not self.backends.can_serve(checkpoint):
            message = (
                f"the checkpoint {model!r} has weights of its own, which this server does not load beside its model: "
                f"set OUTTHINK_FULL_MODELS where it starts its own vLLM, or serve them with "
                f"OUTTHINK_MODEL=<OUTTHINK_DATA_DIR>/{checkpoint.path} OUTTHINK_MODEL_NAME={model}"
            )
            raise ApiError(400, message, param, "model_not_served")

    def without_presets(self) -> list[dict[str, Any]]:
        """Every model by its own name, and the aliases."""
        ours = self.checkpoints.keys() | self.deleted
        models = [model for name, model in self.listed.items() if name not in ours]
        checkpoints = [self.checkpoint(checkpoint) for checkpoint in self.checkpoints.values()]
        by_name = {entry["id"]: entry for entry in (*models, *checkpoints)}
        aliases = [
            {**by_name[model], "id": alias, "root": model, "parent": model}
            for alias, model in self.aliases.items()
            if alias not in by_name and model in by_name
        ]
        return [*by_name.values(), *aliases]

    def checkpoint(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A checkpoint in OpenAI's shape, with where it comes from."""
        context = self.listed.get(self.default, {}).get("max_model_len")
        return {
            "id": checkpoint.name,
            "object": "model",
            "created": checkpoint.created_at,
            "owned_by": "outthink",
            "root": checkpoint.name,
            "parent": checkpoint.parent,
            "method": checkpoint.method,
            "job": checkpoint.job_id or None,
            "step": checkpoint.step,
            "form": checkpoint.form,
            **({"max_model_len": context} if context else {}),
        }

    def listing(self) -> list[dict[str, Any]]:
        """Every name that a client may send, in OpenAI's shape; a preset names its base as `parent`."""
        plain = self.without_presets()
        return plain + [self.with_preset(model, preset) for model in plain for preset in self.presets]

    def with_preset(self, model: Mapping[str, Any], preset: str) -> dict[str, Any]:
        kept = {key: model[key] for key in ("object", "created", "owned_by", "max_model_len") if key in model}
        return {"id": f"{model['id']}@{preset}", **kept, "root": model["id"], "parent": model["id"]}

    async def entry(self, name: str) -> dict[str, Any]:
        """One name's entry in the listing."""
        await self.resolve(name)  # says what is wrong with it
        entry = next((entry for entry in self.listing() if entry["id"] == name), None)
        if entry is None:  # no name at all stands for the default in a request, but is no entry
            raise ApiError(404, f"the model {name!r} does not exist", "model", "model_not_found")
        return entry
