"""A distillation: what is asked, and how it is shown. Our own, in the shape of a fine-tuning job."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from service.jobs import Job
from service.schema import Strict
from service.wire.chat import AnswerSpec, BudgetSpec
from service.wire.fine_tuning import Metadata, Seed

SAMPLING = ("temperature", "top_p", "max_tokens")


class DistillationSpec(Strict):
    """Run a strategy over the questions of a file and keep what won, as training files.

    A candidate's score is the grader's, or, without one, its answer's share of the votes. Those that score `threshold`
    or more win, in a vote only those of the most frequent answer; at most `k` of a question are kept, and as many pairs
    of a winner and a loser. Pairs that differ in a smaller share of their characters than `min_distance` are not made:
    DPO may make the winner of such a pair less likely (Pal et al., 2024, arXiv:2402.13228). `concurrency` questions are
    asked at a time.
    """

    model: str
    file: str
    strategy: str | dict[str, Any]
    budget: BudgetSpec | None = None
    answer: AnswerSpec | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    grader: dict[str, Any] | None = None
    threshold: Annotated[float, Field(gt=0)] | None = None
    k: Annotated[int, Field(ge=1, le=64)] = 4
    min_distance: Annotated[float, Field(ge=0, le=1)] = 0.0
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    seed: Seed | None = None
    metadata: Metadata | None = None

    @property
    def lowest(self) -> float:
        """The lowest score of a winner: full marks, or half the votes, unless the request says."""
        return self.threshold or (1.0 if self.grader else 0.5)

    def chat(self, messages: list[dict[str, Any]], number: int) -> dict[str, Any]:
        """The body of the chat request for one question."""
        body = self.model_dump(exclude_none=True, include={"model", "strategy", "budget", "answer", *SAMPLING})
        return body | {"messages": messages} | ({} if self.seed is None else {"seed": self.seed + number})


def distillation_object(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "distillation",
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "status": job.status,
        "error": job.error,
        **job.spec,
        "model": job.model,
        "progress": {"done": 0, "total": None, **job.progress},
        "result_files": job.result.get("result_files", []),
        "results": job.result or None,
    }
