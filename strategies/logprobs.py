"""Log-probabilities of a generation's tokens in arrays: 16 bytes an entry, where one as OpenAI writes it takes 400."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, overload

Entry = Mapping[str, Any]
"""Of one token, as OpenAI writes it: {"token", "logprob", "top_logprobs": [{"token", "logprob"}, ...]}."""


class Logprobs(Sequence[Entry]):
    """Of every token its own log-probability and those of the `top` most likely ones (None: of all that were listed).

    Reads as the sequence of entries that it was filled with, with `bytes`, which are the token's own.
    """

    def __init__(self, top: int | None = None) -> None:
        self.top = top
        self.tokens: list[str] = []
        self.values = array("d")
        self.ends = array("q")  # of every token, where its entries end

    def append(self, entry: Entry) -> None:
        for one in (entry, *entry["top_logprobs"][: self.top]):
            self.tokens.append(sys.intern(str(one["token"])))
            self.values.append(one["logprob"])
        self.ends.append(len(self.tokens))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Entry]: ...
    def __getitem__(self, at: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        end = self.ends[at]
        start = self.ends[at - 1] if at % len(self) else 0
        own, *top = (self._entry(i) for i in range(start, end))
        return {**own, "top_logprobs": top}

    def _entry(self, i: int) -> dict[str, Any]:
        token = self.tokens[i]
        return {"token": token, "logprob": self.values[i], "bytes": list(token.encode(errors="replace"))}
