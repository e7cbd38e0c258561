"""Doing distillations: a strategy over a file of questions, its winners and losers into training files.

Rejection sampling (Yuan 2023, arXiv:2308.01825), which repeated is STaR (Zelikman 2022, arXiv:2203.14465): sample, keep
what a grader or the vote approves of, train on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from service.answers.similarity import distance
from service.background.executor import SWEEP_SECONDS, Executor, Result, drain, patiently
from service.background.judges import build_grader
from service.chat.execution import Execution, as_api_error
from service.chat.order import create_order
from service.context import Context
from service.errors import ApiError
from service.graders import Grader, Sample, check
from service.jobs import Job, Missing, Staged, Store, rows
from service.jobs.journal import Journal
from service.threads import in_thread
from service.web.middleware import RequestInfo
from service.wire.distillations import DistillationSpec
from strategies.errors import EngineNonsense, StrategyError
from strategies.select import classes
from strategies.types import Candidate

FILES = ("sft", "dpo")


class Distillations(Executor):
    """Those of one service."""

    kind = "distillation"

    async def do(self, job: Job) -> Result:
        return await Distillation(self.context, job, self.owner).run()

    def forget(self, job: Job) -> None:
        forget(self.store, job.id)

    def sweep(self) -> None:
        sweep_journals(self.store)
        self.store.sweep_staged(SWEEP_SECONDS)


def journal_of(store: Store, job_id: str) -> Journal:
    """What the questions of a job gave so far."""
    return Journal(store.folder / "distillations" / f"{job_id}.jsonl")


def file_of(job_id: str, kind: str) -> str:
    """The id of a file that a job makes, whoever does it, and however often it is begun again."""
    return f"file-{uuid5(NAMESPACE_OID, f'{job_id} {kind}').hex}"


def forget(store: Store, job_id: str) -> None:
    """Remove what was kept to go on with a job that has ended, and the files that it made and did not come to have."""
    journal_of(store, job_id).delete()
    for kind in FILES:
        store.unstage(file_of(job_id, kind))


def sweep_journals(store: Store) -> None:
    """Remove what a crash left of jobs that have ended; what this database does not know is not its own to remove."""
    for path in (store.folder / "distillations").glob("*.jsonl"):
        with suppress(Missing):
            if store.job(path.stem).ended:
                forget(store, path.stem)


@dataclass(frozen=True, slots=True)
class Found:
    """What one question gave: texts, the best first. `failure` says why it gave none."""

    number: int
    prompt: Sequence[Mapping[str, Any]]
    winners: Sequence[str] = ()
    pairs: Sequence[Sequence[str]] = ()  # of a winner and a loser
    tokens: int = 0
    failure: str | None = None

    def supervised(self) -> Iterator[dict[str, Any]]:
        for winner in self.winners:
            yield {"messages": [*self.prompt, assistant(winner)]}

    def preferences(self) -> Iterator[dict[str, Any]]:
        for winner, loser in self.pairs:
            yield {
                "input": {"messages": list(self.prompt)},
                "preferred_output": [assistant(winner)],
                "non_preferred_output": [assistant(loser)],
            }


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Distillation:
    """One job in the making."""

    def __init__(self, context: Context, job: Job, owner: str) -> None:
        self.context = context
        self.store = context.store
        self.job = job
        self.owner = owner
        self.spec = DistillationSpec.model_validate(job.spec)
        self.grader: Grader | None = build_grader(context, check(self.spec.grader)) if self.spec.grader else None
        self.journal = journal_of(self.store, job.id)
        self.found: dict[int, Found] = {}
        self.total = 0
        self.writing = asyncio.Lock()

    async def run(self) -> Result:
        """Ask every question that was not asked yet, and write the files."""
        questions = await in_thread(self.read)
        self.total = len(questions)
        left = ((number, row) for number, row in enumerate(questions) if number not in self.found)
        await drain(left, self.spec.concurrency, self.take)
        return await in_thread(self.write)

    async def take(self, question: tuple[int, Mapping[str, Any]]) -> None:
        await self.keep(await self.ask(*question))

    def read(self) -> list[dict[str, Any]]:
        """The questions, and what the journal has of them."""
        self.journal.recover()
        self.found = {entry["number"]: Found(**entry) for entry in self.journal}
        try:
            return list(rows.read(self.store.path(self.spec.file), rows.QuestionRow))
        except (rows.BadLine, Missing, FileNotFoundError) as error:
            raise ApiError(400, f"file: {error}", "file", "invalid_file") from error

    async def ask(self, number: int, row: Mapping[str, Any]) -> Found:
        """Run the strategy on a question. What is wrong with the question alone does not end the job."""
        prompt = rows.QuestionRow.model_validate(row).prompt
        try:
            return await patiently(partial(self.answer, number, row, prompt))
        except (StrategyError, ApiError) as error:
            told = as_api_error(error)
            if isinstance(error, EngineNonsense) or told.status in (404, 429, 503):  # of no question alone
                raise
            return Found(number, prompt, failure=told.message)

    async def answer(self, number: int, row: Mapping[str, Any], prompt: list[dict[str, Any]]) -> Found:
        body = self.spec.chat(prompt, number)
        context = self.context
        order = await create_order(body, self.job.model, None, context, context.jobs)
        run = Execution(context, order, f"{self.job.id}-{number}", RequestInfo(context.jobs, "admin"))
        await run.finish()
        assert run.outcome is not None, "a run that is whole has an outcome"
        candidates = [c for c in run.outcome.round.candidates if c.complete and c.text.strip()]
        winners, losers = map(distinct, await self.judge(row, candidates))
        k = self.spec.k
        pairs = await in_thread(paired, winners, losers, self.spec.min_distance, k)
        return Found(number, prompt, winners[:k], pairs, run.session.generated)

    async def judge(
        self, row: Mapping[str, Any], candidates: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[Candidate]]:
        """The candidates that won, the best first, and those that lost, the worst first; equal ones as they came."""
        if self.grader is None:
            return self.rank_by_vote(candidates)
        samples = list(map(Sample.of, candidates))
        scores = await asyncio.gather(*(self.grader.grade(row, sample) for sample in samples))
        graded = list(zip(candidates, scores, strict=True))
        winners = sorted((pair for pair in graded if pair[1] >= self.spec.lowest), key=lambda pair: -pair[1])
        losers = sorted((pair for pair in graded if pair[1] < self.spec.lowest), key=lambda pair: pair[1])
        return [candidate for candidate, _ in winners], [candidate for candidate, _ in losers]

    def rank_by_vote(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """The most frequent answer's candidates, if enough agree, and the others'."""
        groups = sorted(classes(candidates).values(), key=lambda members: (-len(members), members[0].id))
        voters = sum(map(len, groups))
        if not groups or len(groups[0]) / voters < self.spec.lowest:
            return [], []
        return groups[0], [candidate for members in groups[1:] for candidate in members]

    async def keep(self, found: Found) -> None:
        """Write down what a question gave, and tell how far the job is."""
        async with self.writing:  # what is told last is what holds
            self.found[found.number] = found
            await in_thread(self.journal.append, [asdict(found)])
            if found.failure is not None:
                message = f"line {found.number + 1}: {found.failure}"
                await in_thread(self.store.note, self.job.id, "warn", message)
            facts = {"done": len(self.found), "total": self.total, "solved": self.solved}
            await in_thread(self.store.progress, self.job.id, self.owner, **facts)

    @property
    def solved(self) -> int:
        return sum(bool(found.winners) for found in self.found.values())

    def write(self) -> Result:
        """Write the files, in the order of the questions; they appear with the end of the job."""
        found = [self.found[number] for number in sorted(self.found)]
        supervised = [row for entry in found for row in entry.supervised()]
        preferences = [row for entry in found for row in entry.preferences()]
        made = {kind: self.file(kind, rows) for kind, rows in zip(FILES, (supervised, preferences), strict=True)}
        files = [staged for staged in made.values() if staged]
        facts = {
            **{f"{kind}_file": staged and staged.file.id for kind, staged in made.items()},
            "result_files": [staged.file.id for staged in files],
            "questions": len(found),
            "solved": self.solved,
            "failed": sum(entry.failure is not None for entry in found),
            "sft_rows": len(supervised),
            "dpo_rows": len(preferences),
            "tokens": sum(entry.tokens for entry in found),
        }
        return Result(facts, files)

    def file(self, kind: str, lines: Sequence[Mapping[str, Any]]) -> Staged | None:
        """A training file; none where there is nothing to train on."""
        if not lines:
            return None
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        name = f"{self.job.short}-{kind}.jsonl"
        return self.store.stage_file("fine-tune", name, content.encode(), file_of(self.job.id, kind))


def paired(winners: Sequence[str], losers: Sequence[str], least: float, most: int) -> list[tuple[str, str]]:
    """Each winner with the first loser that is left and differs enough from it, in their order."""
    left = list(losers)
    pairs: list[tuple[str, str]] = []
    for winner in winners:
        if len(pairs) == most:
            break
        loser = next((loser for loser in left if not least or distance(winner, loser) >= least), None)
        if loser is not None:
            left.remove(loser)
            pairs.append((winner, loser))
    return pairs


def distinct(candidates: Sequence[Candidate]) -> list[str]:
    """Their texts, each once, whatever its spaces."""
    texts: dict[str, str] = {}
    for candidate in candidates:
        texts.setdefault(" ".join(candidate.text.split()), candidate.text)
    return list(texts.values())
