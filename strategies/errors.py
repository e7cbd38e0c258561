"""What can go wrong while a strategy runs.

StrategyError
 ├─ InvalidParameter    the caller asked for something that cannot be done; nothing was generated
 ├─ BudgetSpent         a round could not even begin (never leaves the driver when there is an answer)
 ├─ DeadlineExceeded    the budget ended with nothing to show
 ├─ ScorerError         a scorer answered nonsense
 └─ EngineError         the engine failed
     ├─ EngineUnavailable   it could not be reached, or said that it is down
     ├─ EngineRefused       it answered 4xx: the request itself is at fault
     └─ EngineNonsense      it answered what no engine should
"""


class StrategyError(Exception):
    """Base of everything that a run raises on purpose."""


class InvalidParameter(StrategyError):
    """A field of the request cannot be honoured; `param` is its path, as in `strategy.samples`."""

    def __init__(self, param: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class BudgetSpent(StrategyError):
    """The budget ended before this round could begin."""


class DeadlineExceeded(StrategyError):
    """The budget ended before there was any answer to return."""


class ScorerError(StrategyError):
    """A scorer did not return one score for each candidate."""


class EngineError(StrategyError):
    """The engine failed. `generated`: tokens were spent before it did, so a new try is billed again."""

    def __init__(self, message: str, *, generated: bool = False) -> None:
        super().__init__(message)
        self.generated = generated


class EngineUnavailable(EngineError):
    """The engine cannot be reached, is starting, or is restarting. `accepted`: it may have begun with the request."""

    def __init__(self, message: str, *, generated: bool = False, retry_after: int = 5, accepted: bool = True) -> None:
        super().__init__(message, generated=generated)
        self.retry_after = retry_after
        self.accepted = accepted


class EngineRefused(EngineError):
    """The engine answered 4xx: `status`, and the `param` and `code` that it named, if any."""

    def __init__(self, message: str, status: int, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class EngineNonsense(EngineError):
    """The engine answered something that breaks its own protocol."""
