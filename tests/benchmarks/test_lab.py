"""The lab on a server that makes its results up: what it asks for, that it goes on, and what its page says."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.lab import gates as told
from benchmarks.lab.jobs import Lab, Request, Skipped, Stage, progress
from benchmarks.lab.measured import Measurements, Samples
from benchmarks.lab.page import pages
from benchmarks.lab.policies import ADAPTIVE, BEST, MAJORITY, POLICIES, READINGS, VERIFIED
from benchmarks.lab.scale import QUICK, Scale, train_parts
from benchmarks.lab.stages import stages
from benchmarks.lab.training import BASE, FIRST, GRPO, MODELS, SECOND, SFT
from service.benchmarks.arithmetic import generate
from service.benchmarks.recipe import Task
from service.benchmarks.results import compact, figures
from service.commands.client import CommandError
from tests.benchmarks.lab_server import LabServer, at_size, line, samples

STAGES = stages(QUICK)
KNOWN = {"machine": "a machine", "date": "2026-12-01"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lab.jobs.LOOK_SECONDS", 0.0)


def run(server: LabServer, folder: Path) -> Lab:
    with server.client() as client:
        lab = Lab(client, folder, QUICK)
        lab.run(STAGES)
        return lab


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    """What is done, whatever time it took."""
    return {name: {k: v for k, v in record.items() if k != "seconds"} for name, record in state.items()}


def test_a_lab_that_is_interrupted_everywhere_comes_to_the_same(tmp_path: Path) -> None:
    """Before a job is made, while it runs, and while what it measured is fetched, at every stage in turn."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run(LabServer(), whole)
    server, interruptions = LabServer(interrupting=True), 0
    while True:
        try:
            lab = run(server, broken)
            break
        except KeyboardInterrupt:
            interruptions += 1
    comparisons = len(POLICIES) + len(MODELS)
    assert interruptions == 2 * len(STAGES) + 2 * comparisons
    assert len(server.jobs) == len(STAGES), "no job is made twice"
    assert timeless(lab.state) == timeless(expected.state)
    assert timeless(json.loads((broken / "lab.json").read_text())) == timeless(expected.state)
    shown = [pages(each.state | KNOWN, each.folder, STAGES, QUICK) for each in (expected, lab)]
    assert without_minutes(shown[0]["lab.md"]) == without_minutes(shown[1]["lab.md"])
    assert shown[0]["lab.svg"] == shown[1]["lab.svg"]


def without_minutes(text: str) -> str:
    return re.sub(r"Time: \d+ minutes|\| \d+\.\d \|", "", text)


def test_no_training_sees_a_test_question_or_anothers(tmp_path: Path) -> None:
    server = LabServer()
    run(server, tmp_path)
    tests = {problem.question for problem in generate(QUICK.tests, **QUICK.difficulty, split="test")}
    asked = re.findall(r"Start with [^?]*\? [^\n\"]*?\\\\+boxed\{\}\.", json.dumps(server.files))
    assert asked
    assert not tests & {question.replace("\\\\", "\\") for question in asked}
    for scale in (QUICK, Scale()):
        parts = train_parts(scale)
        seen = [problem.question for part in parts.values() for problem in part]
        assert len(seen) == len(set(seen)), "no question is in two trainings"
        held_out = generate(scale.tests, **scale.difficulty, split="test")
        assert not {problem.question for problem in held_out} & set(seen)


def test_a_round_learns_from_what_was_found_with_a_hint_as_if_it_had_none(tmp_path: Path) -> None:
    """The last question of a round is never solved without one."""
    server = LabServer()
    run(server, tmp_path)
    distilled = [server.files[body["file"]] for body in server.bodies.values() if "grader" in body]
    hinted = [rows for rows in distilled if "messages" in rows[0]]
    for number in (1, 2):
        problems = train_parts(QUICK)[f"round {number}"]
        asked = [row["messages"][0]["content"] for row in server.taught(f"round-{number}-sft")]
        assert asked == [problem.question for problem in problems]
        [row] = hinted[number - 1]
        assert row["messages"][0]["content"].startswith(problems[-1].question)
        assert f"The result is {problems[-1].answer}." in row["messages"][0]["content"]
    assert len(server.taught("human")) == 2 * QUICK.asked, "as many as both rounds kept"


def test_each_stage_goes_on_from_the_one_before(tmp_path: Path) -> None:
    server = LabServer()
    run(server, tmp_path)
    parents = {body["suffix"]: body["model"] for body in server.bodies.values() if "suffix" in body}
    assert parents == {
        "sft": "smollm2",
        "sft-merged": "ft:smollm2:sft",
        "grpo": "ft:smollm2:sft",
        "verifier": "ft:smollm2:sft-merged",
        "dpo": "ft:smollm2:sft-merged",
        "weak": "smollm2",
        "round-1-sft": "ft:smollm2:weak",
        "round-1-dpo": "ft:smollm2:round-1-sft",
        "round-2-sft": "ft:smollm2:round-1-dpo",
        "round-2-dpo": "ft:smollm2:round-2-sft",
        "human": "ft:smollm2:weak",
    }
    compared = {body["name"]: body for body in server.bodies.values() if "strategies" in body}
    assert {compared[name]["model"] for name in POLICIES} == {"ft:smollm2:sft-merged"}
    assert compared[SECOND]["model"] == "ft:smollm2:round-2-dpo"
    [guided] = compared["MCTS by the verifier"]["strategies"]
    assert guided["scorer"] == "ft:smollm2:verifier"


@pytest.mark.parametrize("found", [{"pairs": False}, {"solved": False}])
def test_stages_without_anything_to_do_are_left_out(tmp_path: Path, found: dict[str, bool]) -> None:
    lab = run(LabServer(**found), tmp_path)
    assert "skipped" in lab.state["dpo"]
    text = pages(lab.state | KNOWN, tmp_path, STAGES, QUICK)["lab.md"]
    assert "nothing to do, no question had a right and a wrong answer that differ in more than a digit" in text
    assert "\n| SFT, DPO |" not in text.partition("## Time per stage")[0], "what was not made is in no table of models"
    assert "the loop's second round beats its first" in text


def test_the_page_has_every_gate_cell_model_and_stage(tmp_path: Path) -> None:
    lab = run(LabServer(), tmp_path)
    shown = pages(lab.state | KNOWN, tmp_path, STAGES, QUICK)
    text = shown["lab.md"]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()]
    assert {*POLICIES, *READINGS, SFT, *MODELS, *(stage.name for stage in STAGES)} <= set(rows)
    for name, policy in POLICIES.items():
        assert rows.count(name) >= len(getattr(QUICK, policy.sizes)), name
    assert "Machine: a machine. Date: 2026-12-01." in text
    assert shown["lab.svg"].startswith("<?xml")


@pytest.mark.parametrize("name", [BEST, "DVTS by equations", BASE])
def test_what_is_read_off_the_samples_is_what_the_server_reports(tmp_path: Path, name: str) -> None:
    server = LabServer()
    lab = run(server, tmp_path)
    [body] = [body for body in server.bodies.values() if body.get("name") == name]
    written = samples(body)
    [entry] = body["strategies"]
    sizes = tuple(entry["samples"])
    own = [(size,) for size in sizes] if len({line["task"] for line in written}) > 1 else [sizes]
    tasks = [Task(body["model"], name, at_size(entry, of[-1]), of) for of in own]
    spec = {"request": body, "tasks": [asdict(task) for task in tasks]}
    reported = figures(spec, written)["results"]
    assert len(reported) == len(sizes)
    read = [point.cell for point in Measurements.read(lab.state, tmp_path).curves[name]]
    assert read == [cell | {"pareto": False} for cell in reported], "only a job compares its cells with each other"


# Gates


def measurements(**rates: tuple[float, int]) -> Measurements:
    """Curves of one point: of ten questions so many tenths are right, at so many tokens."""
    problem = generate(1)[0]

    def answered(name: str, rate: float, tokens: int) -> Samples:
        answers = {}
        for index in range(10):
            row = line(0, index, problem, 1)
            right = {"correct": index < 10 * rate}
            usage = {"policy": {"completion": tokens, "prompt": 1}, "scorer": {"completion": 0, "prompt": 0}}
            answers[index] = [compact(row | {"candidates": [row["candidates"][0] | right], "usage": usage})]
        return Samples([(Task("m", name, {"type": "self_consistency", "samples": 1}, (1,)), answers)])

    found = {name.replace("_", " "): answered(name, *rate) for name, rate in rates.items()}
    named = {name: found[short] for short, name in SHORT.items() if short in found}
    return Measurements(named, {name: each.curve() for name, each in named.items()})


SHORT = {
    "base": BASE,
    "sft": BEST,
    "grpo": GRPO,
    "first": FIRST,
    "second": SECOND,
    "majority": MAJORITY,
    "adaptive": ADAPTIVE,
    "verified": VERIFIED,
    **{name: name for name in POLICIES if "search" in name},
}


def test_a_model_beats_another_when_the_whole_interval_is_above_zero() -> None:
    found = measurements(sft=(0.9, 47), base=(0.1, 47), grpo=(1.0, 47))
    assert told.rises("x", found, SFT, BASE) == told.Gate("x", "90.0 % against 10.0 %: +80.0 (+50.0 to +100.0)", True)
    assert not told.rises("x", found, GRPO, SFT).reached, "one question of ten may be chance"
    assert told.rises("x", found, SECOND, FIRST) == told.Gate("x", "not measured", False)


@pytest.mark.parametrize(("accuracy", "tokens", "reached"), [(0.5, 55, True), (0.5, 56, False), (0.0, 10, False)])
def test_stopping_is_as_good_at_half_the_tokens(accuracy: float, tokens: int, reached: bool) -> None:
    found = told.as_good_for_less(measurements(majority=(0.5, 100), adaptive=(accuracy, tokens)))
    assert (found.reached, f"at {tokens} %" in found.figure) == (reached, True)


@pytest.mark.parametrize(("accuracy", "tokens", "reached"), [(0.6, 20, True), (0.6, 21, False), (0.5, 20, False)])
def test_checking_is_better_at_a_fifth_of_the_tokens(accuracy: float, tokens: int, reached: bool) -> None:
    found = told.better_for_less(measurements(majority=(0.5, 100), verified=(accuracy, tokens)))
    assert found.reached == reached


# One stage


@pytest.mark.parametrize(
    ("job", "shown"),
    [
        ({"status": "queued", "outthink": {"progress": {}}}, (0, None, "queued")),
        (
            {"outthink": {"progress": {"total_steps": 60, "step": 3, "loss": 0.25}}},
            (3, 60, "step 3 of 60 loss 0.250"),
        ),
        ({"outthink": {"progress": {"marked": 4, "questions": 45}}}, (4, 45, "4 of 45 questions marked")),
        ({"progress": {"done": 2, "total": 8}}, (2, 8, "2 of 8")),
    ],
)
def test_any_job_tells_how_far_it_is(job: dict[str, Any], shown: tuple[float, float | None, str]) -> None:
    assert progress(job) == shown


def test_a_stage_that_failed_ends_the_lab_with_its_reason_and_is_tried_again(tmp_path: Path) -> None:
    replies = iter([{"id": "j1"}, {"status": "failed", "progress": {}, "error": {"message": "no memory"}}])
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=next(replies)))
    stage = Stage("sft", "", 1.0, lambda lab: Request("/fine_tuning/jobs", {}))
    with (
        httpx.Client(base_url="http://lab/v1", transport=transport) as client,
        pytest.raises(CommandError, match="sft failed: no memory"),
    ):
        Lab(client, tmp_path, QUICK).run([stage])
    assert json.loads((tmp_path / "lab.json").read_text()).keys() == {"scale"}, "another lab makes another job"


def test_a_folder_with_a_lab_of_another_scale_is_refused(tmp_path: Path) -> None:
    skipping = Stage("none", "", 0.0, lambda lab: Skipped("nothing"))
    with LabServer().client() as client:
        Lab(client, tmp_path, QUICK).run([skipping])
        with pytest.raises(CommandError, match="holds another lab: move it away"):
            Lab(client, tmp_path, Scale())


def test_two_hours_are_enough() -> None:
    assert sum(stage.minutes for stage in stages(Scale())) <= 120
