"""Why a job cannot be done, in words for whoever asked for it."""

from __future__ import annotations


class TrainingError(Exception):
    """The job fails with this message; `param` names the field that it is about, `code` the kind of failure."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_training") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class Paused(Exception):
    """The job was asked to stop where it is; it can be taken up again."""
