"""The key of the vLLMs that this service starts: loopback is open to every user of the machine."""

from __future__ import annotations

from pydantic import SecretStr

from service.engines.secret_files import read_secret
from service.settings import Settings

FILE = "engine.key"


def read_engine_key(settings: Settings) -> SecretStr:
    """The key of the vLLMs that are ours: what the settings say, else a random one of the data directory."""
    if settings.managed and settings.engine_api_key.get_secret_value():
        return settings.engine_api_key
    return SecretStr(read_secret(settings.data_dir.absolute(), FILE))


def with_engine_key(settings: Settings) -> Settings:
    """The settings with the key of the engine that they name; of one that somebody else runs it is theirs already."""
    return settings.model_copy(update={"engine_api_key": read_engine_key(settings)}) if settings.managed else settings
