"""Small random reward models, and what transformers' own forward pass says of them: the reference for vLLM's scores.

A program of its own, so that the tests need not import torch:

    python -m tests.integration.reward_models make TOKENIZER FOLDER
    python -m tests.integration.reward_models rate FOLDER < [{"question", "steps"}, …]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2Model,
)

HIDDEN, CONTEXT = 64, 512
TAG = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,  # large, so that scores differ between steps
}


def make(tokenizer_folder: str, folder: Path) -> None:
    """A token classifier, a sequence classifier and one of Qwen's shape, each in a folder of its own."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [TAG]})
    size = len(tokenizer) + -len(tokenizer) % 64
    shape = SHAPE | {"vocab_size": size, "pad_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    LlamaForTokenClassification(LlamaConfig(**shape, num_labels=2)).save_pretrained(folder / "prm")
    LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=1)).save_pretrained(folder / "outcome")
    config = Qwen2Config(**shape)
    body, head = Qwen2Model(config), qwen_head()
    weights = {f"model.{name}": tensor for name, tensor in body.state_dict().items()}
    weights |= {f"score.{name}": tensor for name, tensor in head.state_dict().items()}
    (folder / "qwen").mkdir()
    save_file(weights, folder / "qwen" / "model.safetensors", metadata={"format": "pt"})
    described = config.to_dict() | {"architectures": ["Qwen2ForProcessRewardModel"], "dtype": "float32"}
    (folder / "qwen" / "config.json").write_text(json.dumps(described))
    for name in ("prm", "outcome", "qwen"):
        tokenizer.save_pretrained(folder / name)


def qwen_head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))


def rate(folder: Path, paths: list[dict[str, Any]]) -> list[list[float]]:
    """A score for every step of every path, or one for the whole, by the model's own definition."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        match folder.name:
            case "prm":
                classifier = LlamaForTokenClassification.from_pretrained(folder)
                return [of_tokens(tokenizer, classifier, **path) for path in paths]
            case "qwen":
                return [of_tags(tokenizer, *qwen(folder), **path) for path in paths]
            case _:
                judge = LlamaForSequenceClassification.from_pretrained(folder)
                return [of_answer(tokenizer, judge, **path) for path in paths]


def of_tokens(tokenizer: Any, model: Any, question: str, steps: list[str]) -> list[float]:
    """As TRL's PRMTrainer makes its rows: everything tokenised by itself, a label at the separator."""
    ids = tokenizer(question, add_special_tokens=True)["input_ids"]
    places = []
    for step in steps:
        ids += tokenizer(step.replace("\n", " "), add_special_tokens=False)["input_ids"]
        ids += tokenizer("\n", add_special_tokens=False)["input_ids"]
        places.append(len(ids) - 1)
    probabilities = model(torch.tensor([ids])).logits[0].softmax(-1)
    return [float(probabilities[place, 1]) for place in places]


def qwen(folder: Path) -> tuple[Any, nn.Sequential]:
    weights = load_file(folder / "model.safetensors")
    body, head = Qwen2Model(Qwen2Config.from_pretrained(folder)), qwen_head()
    body.load_state_dict({name[6:]: tensor for name, tensor in weights.items() if name.startswith("model.")})
    head.load_state_dict({name[6:]: tensor for name, tensor in weights.items() if name.startswith("score.")})
    return body, head


def of_tags(tokenizer: Any, body: Any, head: nn.Sequential, question: str, steps: list[str]) -> list[float]:
    """As the model card of Qwen2.5-Math-PRM has it."""
    turns = [("system", SYSTEM), ("user", question), ("assistant", TAG.join(steps) + TAG)]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    probabilities = head(body(torch.tensor([ids])).last_hidden_state[0]).softmax(-1)
    tag = tokenizer.convert_tokens_to_ids(TAG)
    return [float(row[1]) for row, token in zip(probabilities, ids, strict=True) if token == tag]


def of_answer(tokenizer: Any, model: Any, question: str, steps: list[str]) -> list[float]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "".join(steps)}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [float(model(torch.tensor([ids])).logits[0].sigmoid()[0])]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", tokenizer_folder, folder]:
            make(tokenizer_folder, Path(folder))
        case ["rate", folder]:
            print(json.dumps(rate(Path(folder), json.load(sys.stdin))))
