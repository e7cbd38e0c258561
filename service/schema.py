"""The base of every request body and table that is checked: no unknown fields, no conversions, no changes."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
