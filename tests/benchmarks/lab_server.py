"""A server that does the jobs of the lab at once, and makes up what they come to; it can interrupt whoever asks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import httpx

from service.benchmarks.arithmetic import Problem, generate
from service.wire.strategy import find

Row = dict[str, Any]
JOBS = ("/fine_tuning/jobs", "/distillations", "/benchmarks")


class LabServer:
    """`interrupting`: whether to raise KeyboardInterrupt at the first request of each kind for each job: before it is
    made, after that, and for what it measured. `pairs`, `solved`: whether distillations find any.
    """

    def __init__(self, *, interrupting: bool = False, pairs: bool = True, solved: bool = True) -> None:
        self.interrupting, self.pairs, self.solved = interrupting, pairs, solved
        self.seen: set[tuple[str, str]] = set()
        self.files: dict[str, list[Row]] = {}
        self.jobs: dict[str, Row] = {}
        self.bodies: dict[str, Row] = {}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="http://lab/v1", transport=httpx.MockTransport(self.answer))

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        if path == "/models":
            return httpx.Response(200, json={"data": [{"id": "smollm2"}]})
        if path == "/files":
            return httpx.Response(200, json={"id": self.keep(rows_in(request.content))})
        if path.startswith("/files/"):
            return httpx.Response(200, text=lines(self.files[path.split("/")[2]]))
        if request.method == "POST":
            body = json.loads(request.content)
            self.interrupt("POST", body.get("name") or body.get("suffix") or body["file"])
            return httpx.Response(200, json=self.make(path, body))
        self.interrupt("GET", path)
        if path.endswith("/samples.jsonl"):
            return httpx.Response(200, text=lines(samples(self.bodies[path.split("/")[2]])))
        if path.endswith("/report"):
            return httpx.Response(200, text="<html>")
        return httpx.Response(200, json=self.jobs[path])

    def interrupt(self, kind: str, what: str) -> None:
        if self.interrupting and (kind, what) not in self.seen:
            self.seen.add((kind, what))
            raise KeyboardInterrupt

    def keep(self, rows: list[Row]) -> str:
        """The id of a file, which is the same for the same content."""
        name = f"file-{hashlib.sha256(lines(rows).encode()).hexdigest()[:12]}"
        self.files[name] = rows
        return name

    def make(self, path: str, body: Row) -> Row:
        """A job that has succeeded already."""
        name = f"job-{len(self.jobs)}"
        come_to: Callable[[Row], Row] = {JOBS[0]: self.tuned, JOBS[1]: self.distilled, JOBS[2]: measured}[path]
        self.bodies[name] = body
        self.jobs[f"{path}/{name}"] = {"id": name, "status": "succeeded"} | come_to(body)
        return {"id": name}

    def tuned(self, body: Row) -> Row:
        progress = {"total_steps": body["outthink"].get("max_steps", 1), "hyperparameters": {"batch_size": 8}}
        name = f"ft:smollm2:{body['suffix']}"
        return {"object": "fine_tuning.job", "fine_tuned_model": name, "outthink": {"progress": progress}}

    def distilled(self, body: Row) -> Row:
        """All questions but the last are solved, those with a hint all."""
        rows = self.files[body["file"]]
        asked = [(row.get("messages") or [{"role": "user", "content": row["question"]}], row) for row in rows]
        kept = (asked if "messages" in rows[0] else asked[:-1]) if self.solved else []
        right = [[*prompt, {"role": "assistant", "content": f"\\boxed{{{row['answer']}}}"}] for prompt, row in kept]
        pairs = [
            {"input": {"messages": said[:-1]}, "preferred_output": said[-1:], "non_preferred_output": said[-1:]}
            for said in right
            if self.pairs
        ]
        results = {
            "sft_file": self.keep([{"messages": said} for said in right]) if right else None,
            "dpo_file": self.keep(pairs) if pairs else None,
            "questions": len(asked),
            "solved": len(kept),
            "sft_rows": len(right),
            "dpo_rows": len(pairs),
        }
        return {"object": "distillation", "results": results, "progress": {"done": 1, "total": 1}}

    def taught(self, suffix: str) -> list[Row]:
        """The rows of a training."""
        [body] = [body for body in self.bodies.values() if body.get("suffix") == suffix]
        return self.files[body["training_file"]]


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_in(form: bytes) -> list[Row]:
    """The JSON lines of an uploaded file."""
    return [json.loads(line) for line in form.decode().splitlines() if line.startswith("{")]


def measured(body: Row) -> Row:
    [entry] = body["strategies"]
    head = {"model": body["model"], "name": entry["name"]}
    results = [head | {"samples": size, "strategy": at_size(entry, size)} for size in entry["samples"]]
    return {"object": "benchmark", "progress": {}, "results": results}


def at_size(entry: Row, size: int) -> Row:
    strategy = {key: value for key, value in entry.items() if key not in ("name", "samples")}
    return find(strategy).at_size(strategy, size)


def samples(body: Row) -> list[Row]:
    """The lines of a benchmark: a task for all sizes of a strategy that samples, else one for each. The strategy of a
    line is what was made of the one that was asked for."""
    [entry] = body["strategies"]
    nested = entry["type"] in ("best_of_n", "self_consistency") and "stop" not in entry
    known = ("steps", "digits", "split")
    problems = generate(body["dataset"]["questions"], **{key: body["dataset"][key] for key in known})
    return [
        line(task, index, problem, size)
        | {"model": body["model"], "name": entry["name"], "strategy": at_size(entry, size) | {"temperature": 1.0}}
        for task, size in enumerate(entry["samples"][-1:] if nested else entry["samples"])
        for index, problem in enumerate(problems)
    ]


def line(task: int, index: int, problem: Problem, size: int) -> Row:
    """Answers that are right as often as not, and cost 47 tokens each; the first one is returned."""
    random = Random(f"{index} {size}")
    candidates = [candidate(i, problem, random.random() < 0.5) for i in range(size)]
    usage = {"policy": {"completion": 47 * size, "prompt": 60}, "scorer": {"completion": 0, "prompt": 0}}
    asked = {"task": task, "index": index, "seed": 1, "question": problem.question, "samples": size}
    come_to = {"chosen": 0, "candidates": candidates, "usage": usage, "seconds": 1.0, "flops": None}
    return asked | come_to | {"failed": 0, "error": None}


def candidate(number: int, problem: Problem, right: bool) -> Row:
    steps = problem.solution.split("\n\n")
    text = problem.solution if right else "\n\n".join([*steps[:-2], "1 + 1 = 3", "\\boxed{3}"])
    scores = [0.9 if right else 0.2] * len(steps)
    told = {"id": number, "text": text, "correct": right, "group": int(right), "tokens": 47, "finish_reason": "stop"}
    return told | {"scores": scores, "score": scores[-1]}
