"""What the lab's page says of what was measured; the stages themselves are run by `make lab`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.faults import Marks
from benchmarks.lab import STAGES, Lab, Rate, Scale, draw, gates, page, powers, progress
from service.commands.client import CommandError

SCALE = Scale(tests=200, samples=2)
MARKS = Marks(0.5, {"result": [0.5], "sign": [1.0, 1.0, 0.5], "number": [], "form": [0.0]})


def cell(name: str, samples: int, accuracy: float, majority: float) -> dict[str, Any]:
    tokens = {"policy": 60.0 * samples, "scorer": 5.0 * samples}
    shown = {"accuracy": accuracy, "ci": [accuracy, accuracy], "majority_at_k": majority, "pass_at_k": 0.9}
    named = {"name": f"{name} scorer=x", "strategy": {"type": name}}
    return {"model": "m", **named, "samples": samples, "tokens": tokens, "seconds": None, "pareto": True, **shown}


def state(best: float) -> dict[str, Any]:
    """A lab that is done: one in twenty at first, four in ten after SFT, and the verifier's choice as given."""
    sampled = [cell("best_of_n", 1, 0.4, 0.4), cell("best_of_n", 2, best, 0.6)]
    found: dict[str, Any] = {f"{name}.job": {"minutes": 1.0, "outthink": {"progress": {}}} for name in STAGES}
    for name in ("sft", "verifier", "dpo"):
        found[f"{name}.job"]["outthink"]["progress"] = {"total_steps": 60, "hyperparameters": {"batch_size": 8}}
    found["distillation.job"]["results"] = {"questions": 120, "solved": 100, "dpo_rows": 222}
    found["base.job"]["results"] = [cell("self_consistency", 1, 0.05, 0.05)]
    found["after SFT.job"]["results"] = found["after DPO.job"]["results"] = sampled
    found["search.job"]["results"] = [cell("beam_search", 1, 0.5, 0.5)]
    return found


def test_a_gate_is_open_when_neither_rate_is_in_the_others_interval() -> None:
    verdicts = [first.beats(second) for _, first, second in gates(state(best=0.45), SCALE, MARKS)]
    assert verdicts == [True, True, False, False, True]


def test_the_page_has_every_gate_cell_and_stage() -> None:
    text = page(state(best=0.7), SCALE, MARKS)
    weighted, one = "70.0 % (63.3 % to 75.9 %)", "40.0 % (33.5 % to 46.9 %)"
    assert f"| best of 2, weighted by the verifier, beats pass@1 | {weighted} | {one} | yes |" in text
    assert "| wrong sign | 3 | 0.83 |" in text
    assert "| wrong number | 0 |  |" in text
    assert "| SFT | best_of_n | 2 | 70.0 % (63.3 % to 75.9 %) | 60.0 % | 90.0 % | 120 + 10 |" in text
    assert "| distillation | 1.0 | 120 questions, 100 solved: 222 pairs |" in text
    assert "Total time: 8 minutes." in text
    assert draw(state(best=0.7)).startswith("<?xml")


def test_rates_have_wilsons_interval() -> None:
    assert str(Rate.of(0.5, 100)) == "50.0 % (40.4 % to 59.6 %)"


def test_sizes_are_powers_of_two() -> None:
    assert powers(16) == [1, 2, 4, 8, 16]


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


def test_a_stage_is_made_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lab.LOOK_SECONDS", 0.0)
    asked: list[str] = []
    replies = iter([{"id": "j1"}, {"status": "running", "progress": {}}, {"status": "succeeded", "progress": {}}])

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json=next(replies))

    with httpx.Client(base_url="http://lab/v1", transport=httpx.MockTransport(answer)) as client:
        first = Lab(client, tmp_path, SCALE).stage("base", lambda: ("/benchmarks", {}))
        assert Lab(client, tmp_path, SCALE).stage("base", lambda: ("/benchmarks", {})) == first
    assert asked == ["POST /v1/benchmarks", "GET /v1/benchmarks/j1", "GET /v1/benchmarks/j1"]


def test_a_stage_that_failed_ends_the_lab_with_its_reason(tmp_path: Path) -> None:
    replies = iter([{"id": "j1"}, {"status": "failed", "progress": {}, "error": {"message": "no memory"}}])
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=next(replies)))
    with (
        httpx.Client(base_url="http://lab/v1", transport=transport) as client,
        pytest.raises(CommandError, match="sft failed: no memory"),
    ):
        Lab(client, tmp_path, SCALE).stage("sft", lambda: ("/fine_tuning/jobs", {}))
    assert json.loads((tmp_path / "lab.json").read_text()) == {}, "another lab makes another job"
