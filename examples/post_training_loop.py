"""Llama 3's post-training loop over the API: sample K answers, keep the best, SFT, then DPO, and again from there.

    python examples/post_training_loop.py questions.jsonl --rounds 2

A line of the file is `{"question": …, "answer": …}`. Each round, as in section 4 of The Llama 3 Herd of Models
(arXiv:2407.21783): K samples of the newest model for every question; the best of them for SFT (rejection sampling),
best against worst for DPO. Deviations: what ranks is a grader that knows the answers, or the vote, and no reward
model; SFT goes on from the round before, where the paper begins each round from the pre-trained model.
pip install openai; needs a server (`make serve`), and an admin key (OUTTHINK_API_KEY) where it has keys.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

parser = argparse.ArgumentParser(description="Post-train a served model by what its own search finds.")
parser.add_argument("questions", type=Path)
parser.add_argument("--model", help="the first one; default: the server's")
parser.add_argument("--rounds", type=int, default=1)
parser.add_argument("--samples", type=int, default=8, help="K")
parser.add_argument("--vote", action="store_true", help="for files without answers: what most samples say is right")
parser.add_argument("--max-tokens", type=int, default=256)
parser.add_argument("--max-steps", type=int, help="of each training; default: as many as there are rows for")
parser.add_argument(
    "--publish",
    default="adapter",
    choices=["adapter", "merged"],
    help="merged: faster on a CPU; on a GPU the server needs OUTTHINK_FULL_MODELS=1",
)
parser.add_argument("--alias", help="let this name stand for the result")
options = parser.parse_args()

client = OpenAI(
    base_url=os.environ.get("OUTTHINK_URL", "http://127.0.0.1:8000").removesuffix("/v1") + "/v1",
    api_key=os.environ.get("OUTTHINK_API_KEY", "none"),
    timeout=600,
)


def waited(kind: str, path: str) -> dict[str, Any]:
    """The job at `path` when it has succeeded."""
    while (job := client.get(path, cast_to=dict[str, Any]))["status"] not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
    if job["status"] != "succeeded":
        raise SystemExit(f"{kind} {job['status']}: {(job['error'] or {}).get('message', 'no reason was given')}")
    return job


def searched(model: str, questions: str) -> dict[str, Any]:
    """Files of winners, and of winners against losers."""
    strategy = {"type": "self_consistency", "samples": options.samples}
    body = {"model": model, "file": questions, "strategy": strategy, "k": 2, "max_tokens": options.max_tokens}
    if not options.vote:
        body["grader"] = {"type": "math", "name": "right"}
    made = client.post("/distillations", body=body, cast_to=dict[str, Any])
    return dict(waited("distillation", f"/distillations/{made['id']}")["results"])


def trained(model: str, file: str, method: str) -> str:
    """The checkpoint that a training ends in."""
    steps = {"max_steps": options.max_steps} if options.max_steps else {}
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file,
        method={"type": method},  # type: ignore[arg-type]
        extra_body={"outthink": {"publish": options.publish, **steps}},
    )
    return str(waited(method, f"/fine_tuning/jobs/{job.id}")["fine_tuned_model"])


model = options.model or client.models.list().data[0].id
questions = client.files.create(file=options.questions, purpose="evals").id
for number in range(1, options.rounds + 1):
    found = searched(model, questions)
    print(f"round {number}: {found['solved']} of {found['questions']} questions solved, {found['tokens']} tokens")
    if not found["sft_file"]:
        raise SystemExit("no question was solved: take easier questions, or more --samples")
    model = trained(model, found["sft_file"], "supervised")
    if found["dpo_file"]:
        model = trained(model, found["dpo_file"], "dpo")
    print(f"round {number}: {model}")
if options.alias:
    client.put(f"/aliases/{options.alias}", body={"model": model}, cast_to=dict[str, Any])
    print(f"{options.alias} stands for {model}")
