"""Benchmarks over HTTP and a scripted engine: what is run, what is refused, what survives."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from service.benchmarks import lines as lines_of_jobs
from service.benchmarks import run
from service.benchmarks.progress import Pace
from service.engines.scripted import Reply, ScriptedEngine
from service.jobs import Store
from service.jobs.journal import Journal
from service.settings import Settings
from strategies.errors import EngineRefused, EngineUnavailable
from tests.conftest import outthink
from tests.service.benchmarks.asking import PATH, SMALL, done, ended, events, lines, request, without_time
from tests.service.benchmarks.sums import sums


async def test_a_benchmark_runs_and_says_so() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        created = (await client.post(PATH, json=request())).json()
        assert created["object"] == "benchmark"
        assert created["grid"]["requests"] == 6
        told = [event async for event in events(client, created)]
        job = (await client.get(f"{PATH}/{created['id']}")).json()
        listed = (await client.get(PATH)).json()
    assert job["status"] == "succeeded"
    assert told[-1].items() >= job["progress"].items()
    assert (job["progress"]["done"], job["progress"]["total"]) == (6, 6)
    started, estimate, task, end = [event["message"] for event in told if event["type"] != "progress"]
    assert (started, end) == ("started: 0 of 6 answers", "succeeded")
    assert re.fullmatch(r"about \d+ s for all 6 answers, from the first 3", estimate)
    assert re.fullmatch(r"self_consistency \(4\): \d of 6 correct", task)
    assert [(cell["samples"], cell["strategy"]["samples"]) for cell in job["results"]] == [(1, 1), (2, 2), (4, 4)]
    assert [entry["id"] for entry in listed["data"]] == [created["id"]]
    assert not listed["has_more"]


async def test_one_run_of_n_tells_all_sizes_and_searches_run_for_each() -> None:
    engine = ScriptedEngine(sums)
    strategies = [
        "self_consistency",
        {"type": "beam_search", "scorer": "logprob", "samples": [1, 6]},
        "chain_of_thought",
    ]
    async with outthink(engine) as client:
        job = await done(client, strategies=strategies, dataset=SMALL | {"questions": 1})
        written = await lines(client, job)
    written.sort(key=lambda line: line["task"])
    assert [(line["name"], line["samples"]) for line in written] == [
        ("self_consistency", 4),
        ("beam_search scorer=logprob", 1),
        ("beam_search scorer=logprob", 6),
        ("chain_of_thought", 1),
    ]
    assert [line["strategy"].get("width") for line in written] == [None, 1, 2, None], "a width that divides the beams"
    assert len(job["results"]) == 3 + 2 + 1
    assert [cell["seconds"] is None for cell in job["results"]] == [True, True, False, False, False, False]


EQUATIONS: list[Any] = [
    {"type": "self_consistency", "name": "one sample", "samples": [1]},
    {"type": "self_consistency", "name": "majority", "samples": [4]},
    {"type": "best_of_n", "scorer": "equations", "name": "best", "samples": [4]},
]
HOT = {"temperature": 1.0}


async def test_a_vote_is_read_off_the_samples_that_another_strategy_draws_anyway() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, strategies=EQUATIONS, samples=None, sampling=HOT)
        written = await lines(client, job)
        apart = await done(client, strategies=EQUATIONS, samples=None, sampling=HOT, reuse=False)
    assert {line["name"] for line in written} == {"best"}
    assert job["grid"]["requests"] == job["progress"]["total"] == job["progress"]["done"] == 6
    assert [task["name"] for task in job["progress"]["tasks"]] == ["best"]
    one, majority, best = job["results"]
    assert [cell["seconds"] is None for cell in (one, majority, best)] == [True, True, False]
    assert apart["grid"]["requests"] == 18
    assert without_time([majority, best]) == without_time(apart["results"][1:]), "what each would have been alone"
    first = apart["results"][0]
    share = sum(c["correct"] for line in written for c in line["candidates"]) / (4 * 6)
    assert (one["samples"], one["accuracy"]) == (1, pytest.approx(share)), "the expectation over all four"
    assert one["tokens"]["policy"] == pytest.approx(first["tokens"]["policy"], rel=0.5)


@pytest.mark.parametrize(
    ("sampling", "others"),
    [
        ({}, [EQUATIONS[2]]),  # temperatures of their own, 0.7 and 0.8
        (HOT, [{"type": "best_of_n", "scorer": "judge"}]),  # whose tokens a vote does not cost
        (HOT, [EQUATIONS[2] | {"samples": [2]}]),
        (HOT, [EQUATIONS[2] | {"stop": {"rule": "verified"}}]),
        (HOT, [EQUATIONS[2] | {"budgets": [100], "samples": 4}]),
        (HOT, [{"type": "beam_search", "scorer": "equations"}]),
    ],
)
async def test_a_vote_is_not_read_off_other_samples_than_its_own(sampling: Any, others: list[Any]) -> None:
    asked = request(strategies=[EQUATIONS[1], *others], samples=[4], sampling=sampling | {"max_tokens": 50})
    async with outthink(ScriptedEngine(sums)) as client:
        plan = (await client.post(PATH, json=asked | {"dry_run": True})).json()
    assert plan["requests"] == 2 * 6, plan


async def test_every_size_is_measured_where_nothing_is_reused() -> None:
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, reuse=False)
        assert len(await lines(client, job)) == 18
        listwise = await done(client, strategies=[{"type": "best_of_n", "scorer": "listwise_judge"}])
        assert len(await lines(client, listwise)) == 18, "a listwise judge compares the samples with each other"
    assert all(cell["seconds"] is not None for cell in job["results"])


async def test_budgets_are_kept_and_reported() -> None:
    async with outthink(ScriptedEngine(sums, interval=1)) as client:
        job = await done(client, samples=None, budgets=[6, 40], strategies=[{"type": "self_consistency", "samples": 8}])
    assert [(cell["budget"], cell["samples"]) for cell in job["results"]] == [(6, None), (40, None)]
    assert {cell["name"] for cell in job["results"]} == {"self_consistency samples=8"}, "another size is another curve"
    small, large = job["results"]
    assert small["tokens"]["policy"] <= 6 + 8 < large["tokens"]["policy"] <= 40 + 8
    assert small["truncated"] > large["truncated"]


async def test_seeds_reach_the_samples_and_differ_by_question() -> None:
    engine = ScriptedEngine(sums)
    async with outthink(engine) as client:
        await done(client, seeds=[3, 5])
        first = [call.seed for _, call in engine.calls]
        engine.calls.clear()
        await done(client, seeds=[3, 5], concurrency=1)
    assert len(set(first)) == 12
    assert sorted(first, key=str) == sorted((call.seed for _, call in engine.calls), key=str)


async def test_templates_and_sampling_reach_the_model() -> None:
    engine = ScriptedEngine(sums)
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: {{item.question}} ({{item.id}})"},
    ]
    async with outthink(engine) as client:
        await done(client, messages=said, sampling={"max_tokens": 7, "top_k": 5}, concurrency=1)
    chat, _ = engine.calls[0]
    assert chat.messages[0]["content"] == "Be brief."
    assert chat.messages[1]["content"].startswith("Q: Start with")
    assert chat.messages[1]["content"].endswith("(0)")
    assert chat.fields == {"max_tokens": 7, "top_k": 5, "temperature": 0.7}


async def test_a_grader_judges_the_text() -> None:
    grader = {
        "type": "string_check",
        "name": "boxed",
        "input": "{{sample.output_text}}",
        "reference": "\\boxed{{{item.answer}}}",
        "operation": "like",
    }
    grader["reference"] = "{{item.answer}}"
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, grader=grader)
        written = await lines(client, job)
    for line in written:
        for candidate in line["candidates"]:
            assert candidate["correct"] == (line["reference"] in candidate["text"])


async def test_answers_that_are_equal_as_mathematics_are_correct() -> None:
    rows = [{"question": "half?", "answer": "0.5"}, {"question": "quarter?", "answer": "\\frac{1}{4}", "id": "q"}]

    def fractions(prompt: str, branch: int) -> str:
        return "\\boxed{\\frac{1}{2}}" if "half" in prompt else "\\boxed{0.25}"

    async with outthink(ScriptedEngine(fractions)) as client:
        job = await done(client, dataset={"rows": rows})
        assert [line["id"] for line in sorted(await lines(client, job), key=lambda line: line["index"])] == ["0", "q"]
    assert [cell["accuracy"] for cell in job["results"]] == [1, 1, 1]
    assert job["request"]["dataset"] == {"rows": 2}


async def test_json_replies_are_compared_as_json() -> None:
    rows = [
        {"question": "one?", "answer": '{"d": "p", "a": {"c": 1, "b": "x, y"}}'},
        {"question": "two?", "answer": '{"a": {"b": "x, y", "c": 1}, "d": "P"}'},
    ]
    reply = '{"a": {"b": "x, y", "c": 1}, "d": "p"}'
    sampling = {"response_format": {"type": "json_object"}}
    async with outthink(ScriptedEngine(lambda prompt, branch: reply)) as client:
        job = await done(client, dataset={"rows": rows}, sampling=sampling)
        written = await lines(client, job)
    assert {line["id"]: line["candidates"][0]["correct"] for line in written} == {"0": True, "1": False}


MIXED = {"rows": [{"question": "1?", "answer": "1", "hint": "2"}, {"question": "2?", "answer": "2", "id": "second"}]}
HINTED = {"type": "math", "name": "hint", "reference": "{{item.hint}}"}
BAD: list[tuple[dict[str, Any], str | None, str]] = [
    ({"strategies": []}, "strategies", "at least 1"),
    ({"strategies": ["guess"]}, "strategies[0].type", "there is no strategy 'guess'"),
    ({"strategies": ["mcts", {"type": "mcts", "waves": 3}]}, "strategies[1].waves", "Extra inputs"),
    ({"strategies": ["self_consistency", "self_consistency"]}, "strategies[1]", "twice"),
    ({"strategies": [{"type": "best_of_n", "scorer": "coin"}]}, "strategies[0].scorer", "there is no scorer 'coin'"),
    ({"strategies": [{"type": "mcts", "samples": [0]}]}, "strategies[0].samples", "positive integers"),
    ({"strategies": [{"type": "mcts", "name": 3}]}, "strategies[0].name", "must be a text"),
    ({"strategies": [{"type": "beam_search", "trees": 4}]}, "strategies[0].beams", "multiple of width × trees"),
    ({"samples": [1, 999]}, "strategies[0].samples", "at most 256 branches"),
    ({"strategies": [{"type": "mcts", "name": "m" * 201}]}, "strategies[0].name", "at most 200 characters"),
    ({"strategies": [{"type": t, "name": "x"} for t in ("best_of_n", "mcts")]}, "strategies[1]", "another `name`"),
    ({"strategies": ["self_consistency", {"type": "self_consistency", "samples": [2]}]}, "strategies[1]", "twice"),
    ({"samples": [4], "budgets": [4]}, None, "send one of them"),
    ({"samples": None, "budgets": [9, 1_000_001]}, "budgets", "allows 1,000,000 tokens a request, not 1,000,001"),
    ({"strategies": [{"type": "mcts", "budgets": [10**9]}]}, "strategies[0].budgets", "allows 1,000,000 tokens"),
    ({"model": []}, "model", "at least 1 item"),
    ({"model": ["smollm2", "smollm2"]}, "model", "the same model twice"),
    ({"seeds": 0}, "seeds", "from 1 to 64"),
    ({"seeds": [1, 1]}, "seeds", "different"),
    ({"seconds": 0}, "seconds", "greater than 0"),
    ({"seconds": -3.5}, "seconds", "greater than 0"),
    ({"seconds": "300"}, "seconds", "valid number"),
    ({"seconds": True}, "seconds", "valid number"),
    ({"concurrency": 65}, "concurrency", "less than or equal to 64"),
    ({"sampling": {"n": 3}}, "sampling.n", "decided by the benchmark"),
    ({"sampling": {"temperature": 9}}, "sampling.temperature", "less than or equal to 2"),
    ({"sampling": {"temperature": 0}}, "sampling.temperature", "makes all samples equal"),
    ({"sampling": {"audio": {}}}, "audio", "not supported"),
    ({"messages": [{"role": "user", "content": "{{item.nothing}}"}]}, "messages", "there is no item.nothing"),
    ({"messages": [{"role": "user", "content": "{{import os}}"}]}, "messages", "no path"),
    ({"dataset": MIXED, "messages": [{"role": "user", "content": "{{item.hint}}"}]}, "messages", "(question second)"),
    ({"dataset": MIXED, "grader": HINTED}, "grader", "there is no item.hint (question second)"),
    ({"grader": {"type": "coin"}}, "grader.type", "there is no grader 'coin'"),
    ({"grader": {"type": "python", "name": "p", "source": "x = 1"}}, "grader.source", "grade"),
    ({"model": "nobody"}, "model", "does not exist"),
    ({"model": "smollm2@sc"}, "model", "names a preset"),
    ({"dataset": {"rows": [{"question": "?"}]}}, "dataset.rows[0]", "`answer`"),
    ({"answer": {"pattern": "("}}, "answer.pattern", "no regular expression"),
    ({"colour": "red"}, "colour", "Extra inputs"),
]


async def test_bad_input_is_refused_by_name() -> None:
    engine = ScriptedEngine(sums)
    async with outthink(engine) as client:
        for fields, param, said in BAD:
            reply = await client.post(PATH, json=request(**fields))
            error = reply.json()["error"]
            assert reply.status_code in (400, 404), fields
            assert (error["param"], said in error["message"]) == (param, True), error
        assert (await client.get(PATH)).json()["data"] == []
    assert not engine.calls


async def test_a_grid_that_is_too_large_says_how_large(tmp_path: Path) -> None:
    settings = Settings(max_benchmark_requests=10, max_benchmark_tokens=2000)
    async with outthink(ScriptedEngine(sums), settings=settings) as client:
        sampling = {"max_tokens": 100}
        many = await client.post(PATH, json=request(seeds=2, sampling={"max_tokens": 1}))
        long = await client.post(PATH, json=request(sampling=sampling))
        plan = await client.post(PATH, json=request(sampling={"max_tokens": 83}, dry_run=True))
        assert (await client.get(PATH)).json()["data"] == []
    assert "12 requests and up to 48 tokens" in many.json()["error"]["message"]
    assert "6 requests and up to 2,400 tokens" in long.json()["error"]["message"]
    assert long.json()["error"]["code"] == "grid_too_large"
    assert plan.json() == {
        "object": "benchmark.plan",
        "questions": 6,
        "requests": 6,
        "tokens": 6 * 4 * 83,
        "tasks": [{"type": "self_consistency", "samples": 4}],
    }


class Held:
    """Lets so many requests through, and holds the others until it is opened."""

    def __init__(self, first: int) -> None:
        self.places = asyncio.Semaphore(first)
        self.waiting = asyncio.Event()

    async def pause(self) -> None:
        if self.places.locked():
            self.waiting.set()
        await self.places.acquire()

    def open(self) -> None:
        for _ in range(10_000):
            self.places.release()


async def test_cancel_keeps_what_is_done_and_resume_does_only_the_rest() -> None:
    gate = Held(3)
    engine = ScriptedEngine(sums, pause=gate.pause)
    async with outthink(engine) as client:
        job = (await client.post(PATH, json=request(concurrency=1))).json()
        await gate.waiting.wait()
        too_early = await client.delete(f"{PATH}/{job['id']}")
        running = await client.post(f"{PATH}/{job['id']}/resume")
        await client.post(f"{PATH}/{job['id']}/cancel")
        cancelled = await ended(client, job)
        before = await lines(client, job)
        partly = (await client.get(f"{PATH}/{job['id']}/report")).text
        gate.open()
        await client.post(f"{PATH}/{job['id']}/resume")
        finished = await ended(client, job)
        after = await lines(client, job)
        fresh = await done(client, concurrency=1)
        assert engine.open_streams == 0
        gone = await client.delete(f"{PATH}/{job['id']}")
        missing = await client.get(f"{PATH}/{job['id']}")
    assert too_early.json()["error"]["code"] == running.json()["error"]["code"] == "conflict"
    assert cancelled["status"] == "cancelled"
    assert cancelled["results"][0]["n_questions"] == len(before) == 3
    assert "cancelled: the figures are of what was done so far" in partly
    assert finished["status"] == "succeeded"
    assert after[:3] == before
    assert sorted(line["index"] for line in after) == [0, 1, 2, 3, 4, 5]
    assert without_time(finished["results"]) == without_time(fresh["results"])
    assert gone.json() == {"id": job["id"], "object": "benchmark", "deleted": True}
    assert missing.status_code == 404


TWO = ["self_consistency", {"type": "best_of_n", "scorer": "logprob"}]


async def test_wherever_it_stops_all_cells_are_of_the_same_questions() -> None:
    gate = Held(5)
    async with outthink(ScriptedEngine(sums, pause=gate.pause)) as client:
        job = (await client.post(PATH, json=request(strategies=TWO, concurrency=1))).json()
        await gate.waiting.wait()
        await client.post(f"{PATH}/{job['id']}/cancel")
        cancelled = await ended(client, job)
        report = (await client.get(f"{PATH}/{job['id']}/report")).text
        written = await lines(client, job)
    assert [(line["index"], line["task"]) for line in written] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert [cell["n_questions"] for cell in cancelled["results"]] == [2] * 6
    assert "2 of 6 questions" in report


async def test_a_benchmark_ends_in_time_and_the_time_before_a_restart_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def elapsed(pace: Pace) -> float:
        return 999.95 if sum(tally.done for tally in pace.tallies.values()) == 5 else 0.0

    monkeypatch.setattr(Pace, "elapsed", property(elapsed))
    gate = Held(5)
    engine = ScriptedEngine(sums, pause=gate.pause)
    async with outthink(engine) as client:
        job = (await client.post(PATH, json=request(strategies=TWO, concurrency=1, seconds=1000))).json()
        await gate.waiting.wait()
        await client.post(f"{PATH}/{job['id']}/cancel")
        cancelled = await ended(client, job)
        monkeypatch.setattr(Pace, "elapsed", 0.0)
        await client.post(f"{PATH}/{job['id']}/resume")
        resumed = await ended(client, job)  # with the gate still closed: a twentieth of a second was left
        told = [event async for event in events(client, job)]
        report = (await client.get(f"{PATH}/{job['id']}/report")).text
        assert engine.open_streams == 0, "what ran was aborted"
    assert cancelled["progress"]["seconds"] == resumed["progress"]["seconds"] == 1000.0
    assert (resumed["status"], resumed["progress"]["done"], resumed["progress"]["total"]) == ("succeeded", 5, 12)
    assert [cell["n_questions"] for cell in resumed["results"]] == [2] * 6
    assert "2 of 6 questions in at most 16 min 40 s" in report
    messages = [event["message"] for event in told if event["type"] != "progress"]
    assert "stopped after 16 min 40 s: 2 of 6 questions answered by every strategy" in messages


async def test_no_question_is_begun_that_would_not_be_done_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()

    def fits(pace: Pace, requests: int, seconds: float) -> bool:
        asked.append(requests)
        return requests <= 3

    monkeypatch.setattr(Pace, "fits", fits)
    async with outthink(ScriptedEngine(sums)) as client:
        job = await done(client, strategies=TWO, seconds=1000, seeds=1)
    assert asked == [1, 2, 3, 4]
    assert (job["status"], job["progress"]["done"]) == ("succeeded", 6)
    assert [cell["n_questions"] for cell in job["results"]] == [3] * 6
    assert job["progress"]["eta_seconds"] is None


async def test_time_without_an_answered_question_is_an_error_that_says_what_to_do() -> None:
    gate = Held(0)
    async with outthink(ScriptedEngine(sums, pause=gate.pause)) as client:
        job = await done(client, strategies=TWO, seconds=0.05)
    assert job["status"] == "failed"
    assert (job["error"]["param"], job["error"]["code"]) == ("seconds", "out_of_time")
    assert "allow more, or ask fewer" in job["error"]["message"]


async def test_deleting_leaves_nothing(tmp_path: Path) -> None:
    async with outthink(ScriptedEngine(sums), settings=Settings(data_dir=tmp_path)) as client:
        job = await done(client)
        assert len(list((tmp_path / "benchmarks").iterdir())) == 1
        await client.delete(f"{PATH}/{job['id']}")
    assert list((tmp_path / "benchmarks").iterdir()) == []


async def test_an_engine_that_is_away_is_waited_for() -> None:
    faults = Counter[str]()

    def flaky(prompt: str, branch: int) -> Reply | str:
        faults[prompt] += 1
        return Reply("", error=EngineUnavailable("restarting")) if faults[prompt] <= 4 else sums(prompt, branch)

    async with outthink(ScriptedEngine(flaky)) as client:
        job = await done(client)
        fresh = await done(client)
    assert job["status"] == "succeeded"
    assert without_time(job["results"]) == without_time(fresh["results"])


async def test_a_full_server_is_waited_for() -> None:
    settings = Settings(max_branches=4, max_queue=0)
    async with outthink(ScriptedEngine(sums), settings=settings) as client:
        job = await done(client, concurrency=6)
    assert job["status"] == "succeeded"
    assert job["results"][-1]["errors"] == 0


async def test_a_model_that_disappears_fails_the_job_and_loses_nothing() -> None:
    engine = ScriptedEngine(sums)

    def vanishing(prompt: str, branch: int) -> Reply | str:
        gone = len(engine.calls) > 3
        return Reply("", error=EngineRefused("The model `x` does not exist.", 404)) if gone else sums(prompt, branch)

    engine.script = vanishing
    async with outthink(engine) as client:
        job = await done(client, concurrency=1)
        engine.script = sums
        await client.post(f"{PATH}/{job['id']}/resume")
        finished = await ended(client, job)
    assert job["status"] == "failed"
    assert job["error"]["message"] == "The model `x` does not exist."
    assert job["results"][0]["n_questions"] == 3
    assert finished["status"] == "succeeded"
    assert finished["error"] is None


async def test_a_question_that_cannot_be_asked_is_wrong_and_counted() -> None:
    def choosy(prompt: str, branch: int) -> Reply | str:
        if "long" in prompt:
            return Reply("", error=EngineRefused("maximum context length exceeded", 400))
        return "\\boxed{1}"

    rows = [{"question": "long?", "answer": "1"}, {"question": "short?", "answer": "1"}]
    async with outthink(ScriptedEngine(choosy)) as client:
        job = await done(client, dataset={"rows": rows})
        (line,) = [line for line in await lines(client, job) if line["error"]]
    assert line["candidates"] == []
    assert [(cell["accuracy"], cell["errors"]) for cell in job["results"]] == [(0.5, 1)] * 3
    assert [cell["unanswered"] for cell in job["results"]] == [1, 1, 1]


async def test_a_fault_of_the_database_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = iter([OSError("disk"), OSError("disk")])
    take = Store.take_job

    def faulty(store: Store, *args: Any) -> Any:
        for fault in faults:
            raise fault
        return take(store, *args)

    monkeypatch.setattr(Store, "take_job", faulty)
    async with outthink(ScriptedEngine(sums)) as client:
        assert (await done(client))["status"] == "succeeded"


async def test_a_full_disk_fails_the_job_which_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Journal.append

    def full(journal: Journal, entries: Iterable[Mapping[str, Any]]) -> None:
        if journal.path.name == lines_of_jobs.SAMPLES and journal.path.exists():
            raise OSError("No space left on device")
        append(journal, entries)

    async with outthink(ScriptedEngine(sums)) as client:
        monkeypatch.setattr(Journal, "append", full)
        job = await done(client)
        monkeypatch.setattr(Journal, "append", append)
        await client.post(f"{PATH}/{job['id']}/resume")
        resumed = await ended(client, job)
    assert (job["status"], job["error"]["code"]) == ("failed", "internal_error")
    assert resumed["status"] == "succeeded"
    assert resumed["progress"]["done"] == 6


async def test_benchmarks_are_for_admins() -> None:
    settings = Settings(api_keys=("client",), admin_keys=("admin",))
    for key, status in (("client", 403), ("admin", 200), ("nobody", 401)):
        async with outthink(ScriptedEngine(sums), settings=settings, key=key) as client:
            assert (await client.get(PATH)).status_code == status


async def test_jobs_wait_for_each_other_and_can_be_cancelled_before_they_begin() -> None:
    gate = Held(0)
    async with outthink(ScriptedEngine(sums, pause=gate.pause)) as client:
        first = (await client.post(PATH, json=request())).json()
        await gate.waiting.wait()
        second = (await client.post(PATH, json=request())).json()
        cancelled = (await client.post(f"{PATH}/{second['id']}/cancel")).json()
        assert (cancelled["status"], cancelled["progress"]["done"]) == ("cancelled", 0)
        report = await client.get(f"{PATH}/{second['id']}/report")
        assert "No question has been answered" in report.text
        assert (await client.get(f"{PATH}/{second['id']}/samples.jsonl")).text == ""
        gate.open()
        assert (await ended(client, first))["status"] == "succeeded"


@pytest.mark.parametrize("call", ["delete_job", "rename", "rmtree"])
@pytest.mark.parametrize("before", [True, False])
async def test_a_kill_at_any_step_of_a_deletion_leaves_nothing_that_cannot_be_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, before: bool
) -> None:
    """Either the benchmark is still there, and can be deleted, or the next start removes its folder."""
    settings = Settings(data_dir=tmp_path)
    owner: Any = {"delete_job": Store, "rename": run, "rmtree": shutil}[call]
    step = getattr(owner, call)

    def killed(*args: Any, **more: Any) -> None:
        if not before:
            step(*args, **more)
        raise OSError("the process ends here")

    async with outthink(ScriptedEngine(sums), settings=settings) as client:
        job = await done(client)
        with monkeypatch.context() as patch:
            patch.setattr(owner, call, killed)
            assert (await client.delete(f"{PATH}/{job['id']}")).status_code == 500
    async with outthink(ScriptedEngine(sums), settings=settings) as client:
        left = [entry["id"] for entry in (await client.get(PATH)).json()["data"]]
        for benchmark in left:
            assert (await client.delete(f"{PATH}/{benchmark}")).status_code == 200
        async with asyncio.timeout(60):
            while list((tmp_path / "benchmarks").iterdir()):  # noqa: ASYNC110 - nobody is told of it
                await asyncio.sleep(0.01)
        assert (await client.get(PATH)).json()["data"] == []


async def test_questions_without_a_job_do_not_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    async with outthink(ScriptedEngine(sums), settings=Settings(data_dir=tmp_path)) as client:
        monkeypatch.setattr(Store, "create_job", full)
        assert (await client.post(PATH, json=request())).status_code == 500
    assert list((tmp_path / "benchmarks").iterdir()) == []
