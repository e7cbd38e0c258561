"""`outthink bench` against a server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from service.benchmarks.progress import Pace
from service.commands import bench as bench_command
from service.commands.client import CommandError
from service.commands.main import app
from service.engines.scripted import ScriptedEngine
from tests.conftest import outthink
from tests.service.benchmarks.asking import PATH
from tests.service.benchmarks.sums import sums

ROOT = Path(__file__).parents[3]
TOML = """
name = "Sums"
strategies = ["self_consistency", { type = "best_of_n", scorer = "logprob" }]
samples = [1, 4]
dataset = { file = "sums.jsonl" }
"""
YAML = """
name: Sums
strategies: [self_consistency]
samples: [1, 2]
dataset: {name: arithmetic, questions: 4}
"""
ROWS = [{"question": f"Start with {i}, then add 1.", "answer": i + 1} for i in range(1, 5)]


async def bench(client: httpx.AsyncClient, *arguments: str) -> Result:
    """The command, in a thread beside the server."""
    command = ["bench", *arguments, "--url", str(client.base_url)]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def test_a_recipe_and_its_file_become_a_report(tmp_path: Path) -> None:
    (tmp_path / "sums.toml").write_text(TOML)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    async with outthink(ScriptedEngine(sums)) as client:
        result = await bench(client, str(tmp_path / "sums.toml"), "--out", str(tmp_path / "out"), "--limit", "3")
        uploaded = (await client.get("/v1/files")).json()["data"]
    assert result.exit_code == 0, result.output
    assert [(file["filename"], file["purpose"]) for file in uploaded] == [("sums.jsonl", "evals")]
    names = {"benchmark.json", "report.html", "results.csv", "samples.jsonl"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    job = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert job["request"]["name"] == "Sums"
    assert len(job["results"]) == 4
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 2 * 3
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert "best_of_n scorer=logprob (4): " in result.output, "what happened"
    assert "★" in result.output, "and what came of it"
    assert re.search(r"6/6 .*succeeded\n", result.output), "each on lines of its own, also in a log"


async def test_the_result_is_a_table_and_a_plot_that_show_what_stops_early(tmp_path: Path) -> None:
    adaptive = '{"type": "self_consistency", "name": "adaptive", "stop": {"rule": "adaptive"}}'
    chain = ("--strategy", "self_consistency", "--strategy", adaptive, "--samples", "1,4")
    async with outthink(ScriptedEngine(sums)) as client:
        result = await bench(client, "--dataset", "arithmetic", "--limit", "4", *chain, "--out", str(tmp_path))
        report = (tmp_path / "report.html").read_text()
        one = await bench(client, "--dataset", "arithmetic", "--limit", "2", *chain[:2], "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    for name, size in [("self_consistency", "1"), ("self_consistency", "4"), ("adaptive", "≤ 1"), ("adaptive", "≤ 4")]:
        assert re.search(rf"^ *{name}( ★)? +{size} +\d+\.\d% ", result.output, re.MULTILINE), result.output
    assert "(accuracy) ^" in result.output
    assert "● self_consistency" in result.output
    assert "■ adaptive" in result.output
    assert re.search(r"about \d+ s for all 12 answers, from the first 6\n", result.output)
    assert one.exit_code == 0, one.output
    assert "(accuracy) ^" not in one.output, "one point is no plot"
    assert "<td>≤ 4</td>" in report


async def test_quick_bounds_the_time_and_says_how_many_questions_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "fits", lambda pace, requests, seconds: requests <= 3)
    (tmp_path / "sums.yaml").write_text(YAML + "seconds: 9999\n")
    async with outthink(ScriptedEngine(sums)) as client:
        result = await bench(client, str(tmp_path / "sums.yaml"), "--quick", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    job = json.loads((tmp_path / "benchmark.json").read_text())
    assert job["request"]["seconds"] == bench_command.QUICK_SECONDS < 300
    assert "3 of 4 questions, the same for every strategy" in result.output


async def test_flags_win_over_the_recipe_and_fail_under_fails(tmp_path: Path) -> None:
    recipe, out = tmp_path / "sums.yaml", tmp_path / "out"
    recipe.write_text(YAML)
    chain = ("--strategy", '{"type": "self_consistency", "name": "mine"}', "--samples", "3", "--max-tokens", "50")
    async with outthink(ScriptedEngine(sums)) as client:
        low = await bench(client, str(recipe), "--out", str(out), *chain, "--fail-under", "0.01", "--seeds", "2")
        job = json.loads((out / "benchmark.json").read_text())
        high = await bench(client, "--dataset", "arithmetic", *chain, "--out", str(out), "--fail-under", "1")
    assert low.exit_code == 0, low.output
    assert [(cell["name"], cell["samples"], cell["seeds"]) for cell in job["results"]] == [("mine", 3, 2)]
    assert job["request"]["sampling"] == {"max_tokens": 50}
    assert high.exit_code == 1
    assert "less than 100.0%" in high.output


async def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("samples = [")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "nofile.toml").write_text(TOML)
    recipes = {
        "hub.yaml": "dataset: gsm8k",
        "few.yaml": "dataset: {name: arithmetic}\nsampling: [1]",
        "date.yaml": "name: 2026-01-01",
        "date.toml": "name = 2026-01-01",
        "nan.yaml": "pass_threshold: .nan",
    }
    for name, text in recipes.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    wrong = {
        (str(tmp_path / "hub.yaml"),): "dataset: must have fields of its own",
        (str(tmp_path / "few.yaml"), "--max-tokens", "9"): "sampling: must have fields of its own",
        (str(tmp_path / "date.yaml"),): "date is not JSON",
        (str(tmp_path / "date.toml"),): "date is not JSON",
        (str(tmp_path / "nan.yaml"),): "not JSON compliant",
        (str(tmp_path / "latin.yaml"),): "can't decode",
        ("--dataset", "arithmetic", "--strategy", "mcts", "--out", str(tmp_path / "latin.yaml")): "File exists",
        ("--dataset", "arithmetic", "--strategy", "mcts", "--limit", "0"): "--limit",
        ("--dry-run", "--resume", "bench-none"): "--resume makes none",
        ("--quick", "--resume", "bench-none"): "--quick: is about a new benchmark",
        ("--dataset", "imagenet", "--strategy", "mcts"): "there is no dataset 'imagenet'",
        ("--dataset", "arithmetic"): "strategies: Field required",
        ("--dataset", "arithmetic", "--samples", "1;2"): "--samples: must be numbers",
        ("--dataset", "arithmetic", "--strategy", "{"): "--strategy: is not valid JSON",
        (str(tmp_path / "bad.toml"),): "bad.toml: ",
        (str(tmp_path / "list.yaml"),): "must hold the fields of a benchmark",
        (str(tmp_path / "nofile.toml"),): "sums.jsonl",
        (str(tmp_path / "none.toml"),): "none.toml",
        ("--resume", "bench-none"): "there is no benchmark 'bench-none'",
    }
    async with outthink(ScriptedEngine(sums)) as client:
        for arguments, said in wrong.items():
            result = await bench(client, *arguments)
            assert result.exit_code == 2, result.output
            assert said in " ".join(result.output.split()), result.output
            assert "Traceback" not in result.output
        assert (await client.get(PATH)).json()["data"] == [], "nothing was run"
    away = await bench(client, "--dataset", "arithmetic", "--strategy", "mcts")
    assert (away.exit_code, "no answer from" in away.output) == (2, True)


async def test_resume_goes_on_with_one_that_was_cancelled(tmp_path: Path) -> None:
    body = {"dataset": {"name": "arithmetic", "questions": 3}, "strategies": ["self_consistency"], "samples": [2]}
    async with outthink(ScriptedEngine(sums)) as client:
        job = (await client.post(PATH, json=body)).json()
        await client.post(f"{PATH}/{job['id']}/cancel")
        result = await bench(client, "--resume", job["id"], "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "benchmark.json").read_text())["progress"]["done"] == 3


async def test_ctrl_c_cancels_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(display: bench_command.Display, event: Mapping[str, Any]) -> None:
        if event["type"] == "progress" and event["done"]:
            raise KeyboardInterrupt

    async def think() -> None:
        await asyncio.sleep(0.02)

    show = bench_command.Display.show
    monkeypatch.setattr(bench_command.Display, "show", pressed)
    async with outthink(ScriptedEngine(sums, pause=think)) as client:
        result = await bench(client, "--dataset", "arithmetic", "--strategy", "self_consistency", "--samples", "2")
        (job,) = (await client.get(PATH)).json()["data"]
        monkeypatch.setattr(bench_command.Display, "show", show)
        resumed = await bench(client, "--resume", job["id"], "--out", str(tmp_path))
    assert (result.exit_code, job["status"]) == (130, "cancelled"), result.output
    assert 0 < job["progress"]["done"] < 100
    assert f"cancelled; `outthink bench --resume {job['id']}` goes on" in result.output.replace("\n", " ")
    assert resumed.exit_code == 0, resumed.output


def test_a_server_that_is_away_is_waited_for_and_a_benchmark_that_is_gone_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(
        [
            httpx.Response(502, text="<html>"),
            httpx.Response(200, text='data: {"type": "message", "message": "started"}\n\n'),
            httpx.Response(404, json={"error": {"message": "there is no benchmark 'x'"}}),
        ]
    )
    monkeypatch.setattr(bench_command, "AGAIN_SECONDS", 0)
    with httpx.Client(base_url="http://server/v1", transport=httpx.MockTransport(lambda _: next(answers))) as client:
        events = bench_command.events(client, "x")
        assert next(events)["message"] == "started"
        with pytest.raises(CommandError, match="there is no benchmark 'x'"):
            next(events)
    monkeypatch.setattr(bench_command, "PATIENCE_SECONDS", 0)
    away = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with httpx.Client(base_url="http://server/v1", transport=away) as client, pytest.raises(httpx.NetworkError):
        next(bench_command.events(client, "x"))


def test_the_display_keeps_its_bar_where_many_tasks_run() -> None:
    task = {"model": "m", "name": "mcts", "budget": None, "done": 1, "total": 2, "accuracy": 0.5, "tokens": 7}
    task["stops_early"] = False
    tasks = [{**task, "samples": k} for k in range(1, 41)] + [{**task, "samples": 99, "done": 0}]
    console = Console(width=60, height=10, file=StringIO(), record=True)
    console.print(bench_command.running(tasks, 7))
    shown = console.export_text().splitlines()
    assert [line.split()[1] for line in shown] == ["size", "34", "35", "36", "37", "38", "39", "40"]


async def test_our_own_recipes_are_valid(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    recipes = ROOT / "benchmarks/recipes"
    async with outthink(ScriptedEngine(sums)) as client:
        first = await bench(client, str(recipes / "first.toml"), "--model", "smollm2", "--dry-run")
        lab = await bench(client, str(recipes / "arithmetic.toml"), "--model", "smollm2", "--dry-run")
        gsm8k = ["--dataset", str(tmp_path / "rows.jsonl"), "--dry-run"]
        school = await bench(client, str(recipes / "gsm8k.yaml"), *gsm8k)
    assert f"{3 * 30} requests, at most {3 * 30 * 16 * 96:,} tokens" in first.output, first.output
    assert f"{4 * 200} requests, at most " in lab.output, lab.output
    assert "4 requests, at most 21,616 tokens" in school.output, school.output
