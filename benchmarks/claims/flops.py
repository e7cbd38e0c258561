"""What a model computes for an answer, attention included.

The service's own figure (docs/benchmarks.md) is 2 · parameters · tokens, with a prompt for every sample. Here attention
is counted, since it does not shrink with the layers' weights, and a prompt once, since samples share it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from service.engines.parameters import count_parameters

FORMULA = "2 · parameters · tokens + 4 · layers · width · context, summed over the tokens"


@dataclass(frozen=True, slots=True)
class Shape:
    """`parameters` are all that multiply: embeddings are only looked up, but here they are the output's weights too.
    `width` is that of all attention heads of a layer together."""

    parameters: int
    layers: int
    width: int

    @classmethod
    def read(cls, folder: Path) -> Shape:
        config = json.loads((folder / "config.json").read_text())
        if not config["tie_word_embeddings"]:
            raise ValueError(f"{folder}: its embeddings are no weights of the output, and would be counted as such")
        parameters = count_parameters(folder.absolute())
        if parameters is None:
            raise ValueError(f"{folder} has no safetensors")
        return cls(parameters, config["num_hidden_layers"], config["num_attention_heads"] * config["head_dim"])

    def reading(self, tokens: float, after: float = 0.0) -> float:
        """FLOPs of so many tokens after so many others: each attends to all before it, and to itself.

        Of a head, the scores of one token are 2 · size · context, and so is the sum of the values.
        """
        contexts = tokens * after + tokens * (tokens + 1) / 2
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.width * contexts

    def request(self, prompt: float, completion: float, samples: float) -> float:
        """FLOPs of samples that share a prompt, and have so many tokens each."""
        return self.reading(prompt) + samples * self.reading(completion, after=prompt)
