"""The claims on a server that makes its results up: what they ask for, that they go on, what is computed, the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, permutations
from math import inf
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.claims import __main__ as command
from benchmarks.claims.curves import (
    BEST,
    MAJORITY,
    STRATEGIES,
    VERIFYING,
    Gap,
    Growth,
    Track,
    at_most,
    growth,
    interaction,
    meeting,
    quadratic,
    reached,
    slope,
    track,
    until_verified,
)
from benchmarks.claims.flops import Shape
from benchmarks.claims.page import Found, equals, pages, rising, rows, straight, times
from benchmarks.claims.results import TEN, Results
from benchmarks.claims.scale import QUICK, Amounts, agree, held_out, train_rows
from benchmarks.claims.small import ensure, kept_layers, renamed
from benchmarks.claims.stages import EVERY, SMALL, Claim, after, converged, rewarded, small_stages, stages
from benchmarks.lab import scale as lab_scale
from benchmarks.lab.jobs import Lab, Skipped
from benchmarks.lab.measured import Samples
from benchmarks.lab.scale import Scale, train_parts
from service.benchmarks.arithmetic import generate
from service.benchmarks.recipe import Task
from service.benchmarks.results import Answered
from service.commands.client import CommandError
from service.wire.benchmarks import BenchmarkRequest
from service.wire.fine_tuning import training_spec
from tests.benchmarks.lab_server import LabServer, Row

SCALE = lab_scale.QUICK
SHAPE = Shape(parameters=1000, layers=2, width=8)
LOSSES = {1: 0.4, 2: 0.2, 3: 0.199, 4: 0.1}
"""After each round of SFT: the third hardly falls, and the fourth is not to be tried."""


class ClaimsServer(LabServer):
    """The lab's, whose trainings have a table of metrics too."""

    def answer(self, request: httpx.Request) -> httpx.Response:
        found = re.fullmatch(r"/v1/files/metrics-(.+)/content", request.url.path)
        return httpx.Response(200, text=metrics(found[1])) if found else super().answer(request)

    def tuned(self, body: Row) -> Row:
        return super().tuned(body) | {"result_files": [f"metrics-{body['suffix']}"]}


def metrics(suffix: str) -> str:
    """Two evaluations, between steps without one."""
    end = LOSSES.get(int(suffix[-1]) if suffix[-1].isdigit() else 1, 0.4)
    return f"step,train_loss,valid_loss\n1,2.5,\n2,2.0,0.9\n3,1.5,\n4,1.0,{end}\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.lab.jobs.LOOK_SECONDS", 0.0)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, ClaimsServer]:
    """Those that the command starts: of the demo model, and of the small one, by their folders' names."""
    found: dict[str, ClaimsServer] = {}

    @contextmanager
    def serve(folder: Path, model: Path | None = None) -> Iterator[httpx.Client]:
        with found.setdefault(folder.name, ClaimsServer()).client() as client:
            yield client

    def made(source: Path, target: Path) -> Path:
        target.mkdir(parents=True, exist_ok=True)
        return target

    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setattr("benchmarks.claims.small.ensure", made)
    monkeypatch.setattr("benchmarks.claims.__main__.demo_model.folder", lambda cache: Path("/demo"))
    monkeypatch.setattr(Shape, "read", lambda folder: Shape(45 if folder.name == "smollm2-third" else 135, 1, 1))
    monkeypatch.setattr(command, "machine", lambda: "a machine")
    return found


def shown(folder: Path, amounts: Amounts = QUICK) -> Mapping[str, str]:
    """The page, on a day of its own."""
    results = command.read(folder, SCALE)
    results.state["claims"]["date"] = "2026-12-01"
    return pages(results, SCALE, amounts)


# What is done


def test_claims_that_are_interrupted_everywhere_come_to_the_same(
    tmp_path: Path, servers: dict[str, ClaimsServer]
) -> None:
    """Before a job is made, while it runs, and while what it measured is fetched, at every stage of both servers."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    command.run(whole, SCALE, QUICK, EVERY)
    jobs = {name: len(server.jobs) for name, server in servers.items()}
    servers |= {name: ClaimsServer(interrupting=True) for name in ("broken", "small")}
    interruptions = 0
    while True:
        try:
            command.run(broken, SCALE, QUICK, EVERY)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions > 2 * (jobs["whole"] + jobs["small"])
    assert len(servers["broken"].jobs) == jobs["whole"], "no job is made twice"
    assert len(servers["small"].jobs) == jobs["small"]
    assert shown(whole) == shown(broken)


def test_what_the_lab_has_done_is_not_done_again(tmp_path: Path, servers: dict[str, ClaimsServer]) -> None:
    server = servers[tmp_path.name] = ClaimsServer()
    needed = [stage for stage in stages(SCALE, QUICK, EVERY) if not stage.name.startswith("large")]
    with server.client() as client:
        Lab(client, tmp_path, SCALE).run(needed)
    before = len(server.jobs)
    command.run(tmp_path, SCALE, QUICK, EVERY)
    rounds = [name for name in command.read(tmp_path, SCALE).state if name.startswith("large: SFT")]
    assert len(server.jobs) - before == len(rounds) + 2, "samples, and greedy answers"


@pytest.mark.parametrize(
    ("claim", "servers_needed", "models"),
    [
        (Claim.COMPUTE, 1, {"large-sft-1", "large-sft-2"}),
        (Claim.SIZE, 2, {"large-sft-1", "large-sft-2"}),
        (Claim.BOTH, 1, {"sft", "sft-merged"}),
        (Claim.LOOP, 1, {"weak", "round-1-sft", "round-1-dpo", "round-2-sft", "round-2-dpo", "human"}),
    ],
)
def test_a_claim_does_what_it_needs_and_the_page_says_which_were_measured(
    tmp_path: Path, servers: dict[str, ClaimsServer], claim: Claim, servers_needed: int, models: set[str]
) -> None:
    command.run(tmp_path, SCALE, QUICK, [claim])
    assert len(servers) == servers_needed
    bodies = servers[tmp_path.name].bodies.values()
    assert {body["suffix"] for body in bodies if "suffix" in body} == models
    found = Found.of(command.read(tmp_path, SCALE), SCALE, QUICK)
    measured = {row.of for row in rows(found, SCALE, QUICK) if row.figure != "not measured"}
    assert measured == ({Claim.COMPUTE, Claim.SIZE} if claim is Claim.SIZE else {claim})


def test_rounds_of_sft_end_where_the_loss_no_longer_falls(tmp_path: Path) -> None:
    """Each goes on from the one before, with all weights, on the same rows in another order."""
    amounts = replace(QUICK, rounds=4)
    server = ClaimsServer()
    with server.client() as client:
        lab = Lab(client, tmp_path, SCALE)
        lab.run(small_stages(SCALE, amounts))
        assert isinstance(SMALL.train(4, amounts, lab), Skipped)
    bodies = [body for body in server.bodies.values() if "suffix" in body]
    assert [body["model"] for body in bodies] == ["smollm2", "ft:smollm2:small-sft-1", "ft:smollm2:small-sft-2"]
    assert len({body["training_file"] for body in bodies}) == 1
    assert len({body["seed"] for body in bodies}) == 3
    assert {(body["outthink"]["weights"], body["outthink"]["publish"]) for body in bodies} == {("full", "merged")}
    assert lab.state[SMALL.round(4)]["skipped"] == "the validation loss was 0.1990 after 0.2000"
    assert lab.state["small: losses"] == {SMALL.round(number): [[2, 0.9], [4, LOSSES[number]]] for number in (1, 2, 3)}
    [measured] = [body for body in server.bodies.values() if body.get("name") == SMALL.samples]
    assert measured["model"] == "ft:smollm2:small-sft-3", "the lowest of all"


@pytest.mark.parametrize(
    ("ends", "done"),
    [
        ([], False),
        ([0.2], False),
        ([0.2, 0.18], False),
        ([0.2, 0.195], True),
        ([0.2, 0.3], True),
        ([0.1, 0.3, 0.2], True),
    ],
)
def test_a_model_has_converged_when_a_round_was_hardly_better_than_the_best(ends: list[float], done: bool) -> None:
    assert converged(ends) == done


def test_both_sizes_see_the_same_rows_and_no_test_question_is_in_any_training(
    tmp_path: Path, servers: dict[str, ClaimsServer]
) -> None:
    command.run(tmp_path, SCALE, QUICK, EVERY)
    large, small = servers[tmp_path.name], servers["small"]
    assert large.taught("large-sft-1") == small.taught("small-sft-1")
    for scale, amounts in ((SCALE, QUICK), (Scale(), Amounts())):
        parts = train_rows(scale, amounts)
        lab = [problem.question for part in train_parts(scale).values() for problem in part]
        own = [problem.question for problem in parts["sft"]]
        assert not set(own) & {*lab}
        assert not set(own) & {problem.question for problem in parts["grpo"]}
        others = held_out(scale, amounts) + generate(scale.tests, **scale.difficulty, split="test")
        assert not {problem.question for problem in others} & {*lab, *own}


def test_a_greater_budget_of_grpo_has_seen_what_a_smaller_one_has(
    tmp_path: Path, servers: dict[str, ClaimsServer]
) -> None:
    command.run(tmp_path, SCALE, QUICK, [Claim.REINFORCEMENT])
    server = servers[tmp_path.name]
    seen = [server.taught(name) for name in ("grpo", *(rewarded(s).replace(" ", "-") for s in QUICK.rewarded_steps))]
    assert [len(rows) for rows in seen] == [4, 8, 12]
    assert all(fewer == more[: len(fewer)] for fewer, more in pairwise(seen))
    bodies = server.bodies.values()
    assert {body["model"] for body in bodies if "reinforcement" in body.get("method", {})} == {"ft:smollm2:sft"}
    measured = {body["name"]: body["model"] for body in bodies if "strategies" in body}
    assert measured[after(3)] == "ft:smollm2:grpo-3-steps"


def test_the_servers_own_models_take_every_request(tmp_path: Path, servers: dict[str, ClaimsServer]) -> None:
    command.run(tmp_path, SCALE, QUICK, EVERY)
    bodies = [body for server in servers.values() for body in server.bodies.values()]
    trainings = [training_spec(body)[1] for body in bodies if "method" in body]
    assert {spec.outthink.weights for spec in trainings} == {"full", "lora"}
    assert all(spec.validation_file for spec in trainings if spec.outthink.weights == "full")
    for body in bodies:
        if "strategies" in body:
            BenchmarkRequest.model_validate(body)


def test_claims_of_other_amounts_are_refused(tmp_path: Path) -> None:
    with LabServer().client() as client:
        agree(Lab(client, tmp_path, SCALE), QUICK)
        agree(Lab(client, tmp_path, SCALE), QUICK)
        with pytest.raises(CommandError, match="holds claims of other amounts: move it away"):
            agree(Lab(client, tmp_path, SCALE), Amounts())


def test_two_and_a_half_hours_are_enough_after_the_lab() -> None:
    own = [stage for stage in stages(Scale(), Amounts(), EVERY) if stage.name.startswith(("large", "grpo ", "base"))]
    measured = [stage for stage in stages(Scale(), Amounts(), EVERY) if stage.name.startswith("SFT, GRPO of")]
    assert sum(stage.minutes for stage in (*own, *measured, *small_stages(Scale(), Amounts()))) <= 150


# A third of the size


def sizes_of(layers: int, embeddings: int, layer: int) -> dict[str, int]:
    found = {f"model.layers.{number}.mlp.weight": layer for number in range(layers)}
    return {"model.embed_tokens.weight": embeddings, **found}


def test_layers_are_kept_evenly_for_a_third_of_the_parameters() -> None:
    assert kept_layers(sizes_of(30, 28, 4)) == [0, 7, 14, 22, 29]  # 28 + 5 · 4 of 148
    assert kept_layers(sizes_of(4, 0, 1), share=0.5) == [0, 3]
    with pytest.raises(ValueError, match="two are the least"):
        kept_layers(sizes_of(30, 100, 4))


def test_layers_are_numbered_anew() -> None:
    names = ["model.norm.weight", *(f"model.layers.{number}.q.weight" for number in range(3))]
    assert renamed(names, [0, 2]) == {
        "model.norm.weight": "model.norm.weight",
        "model.layers.0.q.weight": "model.layers.0.q.weight",
        "model.layers.2.q.weight": "model.layers.1.q.weight",
    }


def test_the_small_model_has_the_kept_layers_weights_and_all_that_it_takes_to_serve_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "own" / "small"
    source.mkdir()
    layers = {f"model.layers.{number}.q.weight": np.full((2, 2), number, dtype=np.float32) for number in range(6)}
    save_file({"model.norm.weight": np.zeros(3, dtype=np.float32), **layers}, source / "model.safetensors")
    config = {"num_hidden_layers": 6, "num_attention_heads": 2, "head_dim": 4, "tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    (source / "tokenizer.json").write_text("{}")
    assert ensure(source, target) == ensure(source, target) == target
    assert Shape.read(source) == Shape(27, 6, 8)
    assert Shape.read(target) == Shape(11, 2, 8)
    assert load_file(target / "model.safetensors")["model.layers.1.q.weight"].tolist() == [[5, 5], [5, 5]]
    assert {file.name for file in target.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert [file.name for file in target.parent.iterdir()] == ["small"], "nothing is left behind"


def test_a_model_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the small model could not be made from"):
        ensure(tmp_path / "none", tmp_path / "small")
    assert not (tmp_path / "small").exists()


# FLOPs


def test_a_token_attends_to_all_before_it_and_to_itself() -> None:
    assert SHAPE.reading(3) == 2 * 1000 * 3 + 4 * 2 * 8 * (1 + 2 + 3)
    assert SHAPE.reading(2, after=3) == 2 * 1000 * 2 + 4 * 2 * 8 * (4 + 5)
    assert SHAPE.reading(5) == SHAPE.reading(3) + SHAPE.reading(2, after=3)


def test_samples_share_a_prompt() -> None:
    assert SHAPE.request(3, 2, samples=4) == SHAPE.reading(3) + 4 * SHAPE.reading(2, after=3)


def test_embeddings_that_are_no_weights_of_the_output_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match="no weights of the output"):
        Shape.read(tmp_path)


# Curves


def answered(rights: Sequence[bool], verified: Sequence[bool] = ()) -> Answered:
    """Samples of 10 tokens, of a prompt of 3; those that are not right give one wrong answer."""
    n = len(rights)
    return Answered(
        correct=True,
        answered=True,
        seconds=1.0,
        flops=None,
        policy=10 * n,
        scorer=0,
        prompt=3 * n,
        failed=0,
        undecided=0,
        error=False,
        ids=[*range(n)],
        groups=[int(right) for right in rights],
        scores=[float(each) for each in verified or rights],
        corrects=[*rights],
        cut=[False] * n,
    )


@pytest.mark.parametrize("verified", [0, 1, 2, 4])
def test_samples_until_one_is_verified_are_those_of_all_orders(verified: int) -> None:
    found = answered([True] * 4, [i < verified for i in range(4)])
    orders = [*permutations(range(4))]
    for k in range(1, 5):
        drawn = [next((i + 1 for i in range(k) if order[i] < verified), k) for order in orders]
        assert until_verified(found, k) == pytest.approx(np.mean(drawn))


def test_a_track_has_what_each_strategy_reaches_and_takes() -> None:
    given = {0: [answered([True, True, False, False])], 1: [answered([False] * 4)]}
    samples = Samples([(Task("m", "x", {"type": "best_of_n", "samples": 4}, (1, 2, 4)), given)])
    best, until, vote = (track(samples, STRATEGIES[name], SHAPE) for name in (BEST, VERIFYING, MAJORITY))
    assert best.right.tolist() == [[0.5, pytest.approx(5 / 6), 1.0], [0.0, 0.0, 0.0]]
    assert until.right.tolist() == best.right.tolist()
    assert best.tokens.tolist() == [[10, 20, 40], [10, 20, 40]]
    assert until.tokens[1].tolist() == [10, 20, 40], "nothing is verified, so that all are drawn"
    assert until.tokens[0].tolist() == pytest.approx([10, 15, 10 * (1 + 1 / 2 + 1 / 6)])
    assert best.flops[0].tolist() == [SHAPE.request(3, 10, samples=k) for k in (1, 2, 4)]
    assert vote.sizes == [2, 4], "two votes decide nothing"
    assert vote.column(4).right.tolist() == [[1.0], [0.0]]


def test_a_request_that_failed_takes_nothing() -> None:
    samples = Samples([(Task("m", "x", {"type": "best_of_n", "samples": 4}, (1, 4)), {0: [answered([])]})])
    for strategy in STRATEGIES.values():
        found = track(samples, strategy, SHAPE)
        assert (found.right.sum(), found.tokens.sum(), found.flops.sum()) == (0, 0, 0)


def curve(rates: Sequence[float], spread: float = 0.0, questions: int = 40) -> Track:
    """Sizes 1, 2, 4, … of 10 tokens and 100 FLOPs each; half of the questions are better by `spread` than the rates,
    and half are worse."""
    sizes = [2**place for place in range(len(rates))]
    signs = np.resize([1.0, -1.0], questions)[:, None]
    cost = np.ones((questions, 1)) * np.array(sizes, dtype=float)
    return Track(sizes, np.array(rates) + spread * signs, 10 * cost, 100 * cost)


def test_a_line_is_fitted_up_to_where_it_stops() -> None:
    found = growth(curve([0.1, 0.2, 0.3, 0.4, 0.4, 0.5], spread=0.05))
    assert found.end == 8
    assert found.fit is not None
    assert found.fit.points == 4
    assert (found.fit.slope, *found.fit.ci, *found.fit.tokens) == pytest.approx((0.1, 0.1, 0.1, 10, 80))
    assert rising(found) == "+10.0 (+10.0 to +10.0) a doubling, from 10 to 80 tokens; stops after 8 samples"


def test_a_curve_that_never_stops_has_no_end_and_one_that_is_flat_no_line() -> None:
    assert growth(curve([0.1, 0.2, 0.3, 0.4])).end is None
    flat = growth(curve([0.1, 0.1, 0.1, 0.1]))
    assert flat == Growth(1, None, None)
    assert (straight(flat), rising(flat)) == ("no", "no rise that can be told from zero; stops after 1 sample")


def test_a_gain_that_may_be_chance_is_a_stop() -> None:
    found = curve([0.1, 0.2, 0.3, 0.4])
    found.right[:, 2] = found.right[:, 1] + np.where(np.arange(40) == 0, 1.0, 0.0)  # of one question in forty
    assert growth(found).end == 2


def test_a_bend_is_told_from_a_line() -> None:
    noisy = np.random.default_rng(0).normal(0, 0.1, (40, 4))
    tokens = np.array([10.0, 20.0, 40.0, 80.0])
    low, high = quadratic(tokens, np.array([0.1, 0.2, 0.3, 0.4]) + noisy)
    assert low < 0 < high
    low, high = quadratic(tokens, np.array([0.1, 0.2, 0.4, 0.7]) + 0.01 * noisy)
    assert 0 < low < 0.05 < high, "of squares from 0 to 9 a twentieth: x²/20 + x/20"
    assert straight(Growth(None, growth(curve([0.1, 0.2, 0.3])).fit, (low, high))) == "it rises, but not in a line"


def test_what_is_zero_but_for_rounding_is_no_slope() -> None:
    assert slope([1, 2, 3], np.resize([0.1, 0.7, 0.9], (40, 1)) * np.ones(3)).ci == (0, 0)


def test_a_slope_of_what_is_a_line_is_its_own() -> None:
    right = np.array([0.3, 0.4, 0.5, 0.6]) + np.resize([0.1, -0.1], (40, 1))
    found = slope([1, 2, 4, 8], right)
    assert (found.slope, found.intercept, *found.ci) == pytest.approx((0.1, 0.3, 0.1, 0.1))


@pytest.mark.parametrize(
    ("wanted", "flops"), [(0.5, 2.0), (1.0, 4.0), (0.25, 2**0.5), (0.0, 1.0), (-1, 1.0), (1.1, inf)]
)
def test_an_accuracy_is_reached_between_two_points(wanted: float, flops: float) -> None:
    assert reached(np.array([1.0, 4.0, 8.0]), np.array([0.0, 1.0, 0.5]), wanted) == pytest.approx(flops)


def test_a_curve_meets_another_at_a_multiple_of_a_unit() -> None:
    found, unit = curve([0.1, 0.3, 0.5]), np.full(40, 100.0)
    met = meeting(found, np.full(40, 0.3), unit)
    assert (met.multiple, *met.ci) == pytest.approx((2, 2, 2))
    assert meeting(found, np.full(40, 0.3), 2 * unit).multiple == pytest.approx(1)
    never = meeting(found, np.full(40, 0.9), unit)
    assert (never.multiple, never.ci) == (inf, (inf, inf))
    some = np.where(np.arange(40) < 20, 1.0, 0.0)  # half the questions: it is met in about half of the resamples
    assert meeting(found, some, unit).ci[1] == inf


def test_ten_times_the_compute_or_as_much_as_is_ever_spent() -> None:
    unit, wanted = np.full(40, 100.0), np.full(40, 0.3)
    spent, found = at_most(curve([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), TEN, unit, wanted)
    assert (spent, found.mean) == pytest.approx((10, 0.1 * (1 + np.log2(10)) - 0.3))
    spent, found = at_most(curve([0.1, 0.2, 0.3]), TEN, unit, wanted)
    assert (spent, found.mean) == pytest.approx((4, 0))


def test_an_interaction_is_what_both_have_beyond_the_sum() -> None:
    ones = np.ones(40)
    found = interaction(base=0.1 * ones, search=0.2 * ones, training=0.4 * ones, both=0.8 * ones)
    assert (found.mean, *found.ci) == pytest.approx((0.3, 0.3, 0.3))


@pytest.mark.parametrize(
    ("ci", "said"), [((-0.2, -0.1), "no"), ((-0.2, 0.1), "yes, within the interval"), ((0.1, 0.2), "yes, and more")]
)
def test_equal_is_what_the_interval_does_not_exclude(ci: tuple[float, float], said: str) -> None:
    assert equals(Gap(0.0, ci)) == said


@pytest.mark.parametrize(("value", "said"), [(3.14159, "3.1 ×"), (41.5, "42 ×"), (inf, "no multiple")])
def test_multiples_are_told_with_two_digits(value: float, said: str) -> None:
    assert times(value) == said


# The page


def test_the_page_has_a_row_with_a_command_for_every_claim(tmp_path: Path, servers: dict[str, ClaimsServer]) -> None:
    command.run(tmp_path, SCALE, QUICK, EVERY)
    files = shown(tmp_path)
    text = files["claims.md"]
    for claim in Claim:
        assert f"| `python -m benchmarks.claims {claim}` |" in text
    assert "not measured" not in text
    assert "Machine: a machine. Date: 2026-12-01." in text
    assert "1 to 3.00" in text
    assert "| large | 4 | 1 × the worker's | 0.4000, 0.2000 | no |" in text
    assert files["claims-compute.svg"].startswith("<?xml")
    assert files["claims-size.svg"].startswith("<?xml")
    pictures = re.findall(r"\]\((claims-\S+\.svg)\)", text)
    assert {*pictures, "claims.md"} == set(files)


def test_what_the_page_says_of_both_sizes_is_what_their_samples_say(
    tmp_path: Path, servers: dict[str, ClaimsServer]
) -> None:
    """Both servers make the same samples up, so that the small one takes a third of the compute for the same."""
    command.run(tmp_path, SCALE, QUICK, [Claim.SIZE])
    found = Found.of(command.read(tmp_path, SCALE), SCALE, QUICK).sizes
    assert found is not None
    least = found.curve[BEST][1]
    assert least.own.multiple == pytest.approx(1)
    assert least.other.multiple == pytest.approx(found.small[BEST].mean_flops[0] / found.large[BEST].mean_flops[0])
    assert 1 / 3 < least.other.multiple < 1, "attention of as many layers is the same for both"


def test_results_of_nothing_are_a_page_that_says_so(tmp_path: Path) -> None:
    state = {"claims": {"machine": "a machine", "date": "2026-12-01"}}
    files = pages(Results(tmp_path, state, {}), SCALE, QUICK)
    assert [*files] == ["claims.md"]
    assert files["claims.md"].count("not measured") == len(Claim)
