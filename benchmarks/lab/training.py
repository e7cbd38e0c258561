"""What is trained: SFT, a verifier, GRPO, DPO, and the loop of sampling, ranking and training again.

What is compared has weights of its own (`publish: merged`), since adapters are slow on a CPU. GRPO samples with an
adapter, so that SFT is published as one, and merged by a step that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lab.jobs import SEED, Lab, Request, Skipped, Stage, State
from benchmarks.lab.policies import TEMPERATURE, benchmark
from benchmarks.lab.scale import QUESTIONS_A_STEP, Scale, train_parts
from service.benchmarks.arithmetic import Problem

Row = dict[str, Any]

MATH = {"type": "math", "name": "right", "reference": "{{item.answer}}"}
PAIRS = {"batch_size": 8, "n_epochs": 2}
"""A pair of DPO is two answers, and each is read by the reference as well."""
MARKS = {"batch_size": 16, "n_epochs": 2, "learning_rate_multiplier": 0.75}
"""A verifier's marks are a token each: it takes many to learn what a wrong equation is."""
RPO_ALPHA = 1.0
MIN_DISTANCE = 0.1
"""Of the answers of a pair: a wrong digit in the last sum and in the result is less."""
NOTHING = 1e-12
"""A learning rate that changes no weight: such a step only merges."""
HINT = "\n\nThe result is {}. Show the equations that lead to it."
"""STaR's rationalization (Zelikman et al., 2022, arXiv:2203.14465): who knows the answer may find the way to it."""


def tune(lab: Lab, name: str, model: str, rows: Sequence[Row], method: Mapping[str, Any], **extras: Any) -> Request:
    body = {"model": model, "training_file": lab.upload(name, rows), "suffix": name.replace(" ", "-"), "seed": SEED}
    return Request("/fine_tuning/jobs", body | {"method": method, "outthink": {"publish": "merged", **extras}})


def conversation(problem: Problem) -> Row:
    return {"messages": [user(problem.question), {"role": "assistant", "content": problem.solution}]}


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def question(problem: Problem) -> Row:
    return {"question": problem.question, "answer": problem.answer}


def supervised(**hyperparameters: Any) -> Mapping[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


# SFT, the verifier, GRPO, DPO


def sft(lab: Lab) -> Request:
    rows = [conversation(problem) for problem in train_parts(lab.scale)["sft"]]
    return tune(lab, "sft", lab.base(), rows, supervised(), max_steps=lab.scale.sft_steps, publish="adapter")


def merge_sft(lab: Lab) -> Request:
    rows = [conversation(problem) for problem in train_parts(lab.scale)["sft"][:1]]
    return tune(lab, "sft merged", lab.model("sft"), rows, supervised(), max_steps=1, learning_rate=NOTHING)


def verifier(lab: Lab) -> Request:
    """It marks the steps of the SFT model's own solutions, each in one sequence."""
    scale = lab.scale
    sampling = {"samples": scale.solutions, "rollouts": scale.rollouts, "max_tokens": scale.max_tokens}
    return tune(
        lab,
        "verifier",
        lab.model("sft, merged"),
        [question(problem) for problem in train_parts(scale)["verifier"]],
        {"type": "verifier", "verifier": {"hyperparameters": MARKS}},
        **sampling,
        temperature=TEMPERATURE,
        max_steps=scale.verifier_steps,
        format="rlhflow",
    )


def grpo(lab: Lab) -> Request:
    return reinforced(lab, "grpo", train_parts(lab.scale)["grpo"])


def reinforced(lab: Lab, name: str, problems: Sequence[Problem]) -> Request:
    """GRPO from SFT, each question once."""
    scale = lab.scale
    rows = [{"messages": [user(p.question)], "answer": p.answer} for p in problems]
    told = {"batch_size": QUESTIONS_A_STEP, "n_epochs": 1}
    method = {"type": "reinforcement", "reinforcement": {"grader": MATH, "hyperparameters": told}}
    return tune(
        lab,
        name,
        lab.model("sft"),
        rows,
        method,
        samples=scale.group,
        max_tokens=scale.max_tokens,
        temperature=TEMPERATURE,
    )


def preferences(lab: Lab) -> Request:
    rows = [question(problem) for problem in train_parts(lab.scale)["dpo"]]
    return distil(lab, "preferences", lab.model("sft, merged"), rows, lab.scale.answers, k=lab.scale.answers)


def distil(lab: Lab, name: str, model: str, rows: Sequence[Row], samples: int, k: int) -> Request:
    """Right answers of a model, and pairs of a right and a wrong one that differ in more than a digit."""
    body = {
        "model": model,
        "file": lab.upload(name, rows),
        "strategy": {"type": "self_consistency", "samples": samples},
        "grader": MATH,
        "k": k,
        "min_distance": MIN_DISTANCE,
        "max_tokens": lab.scale.max_tokens,
        "temperature": TEMPERATURE,
        "seed": SEED,
    }
    return Request("/distillations", body)


def dpo_on(lab: Lab, name: str, model: str, answers: str, steps: int) -> Request | Skipped:
    """DPO with a share of SFT's loss on the pairs of a distillation."""
    rows = lab.rows(results_in(lab.state, answers)["dpo_file"])
    if not rows:
        return Skipped("no question had a right and a wrong answer that differ in more than a digit")
    method = {"type": "dpo", "dpo": {"hyperparameters": PAIRS}}
    return tune(lab, name, model, rows, method, max_steps=steps, rpo_alpha=RPO_ALPHA)


def results_in(state: State, name: str) -> Mapping[str, Any]:
    """What a distillation came to; nothing where there was nothing to ask."""
    found: Mapping[str, Any] = state[name]["job"]["results"] if "job" in state[name] else NO_ROWS
    return found


NO_ROWS = {"sft_file": None, "dpo_file": None, "sft_rows": 0, "dpo_rows": 0}


def dpo(lab: Lab) -> Request | Skipped:
    return dpo_on(lab, "dpo", lab.model("sft, merged"), "preferences", lab.scale.dpo_steps)


# The loop


def weak(lab: Lab) -> Request:
    rows = [conversation(problem) for problem in train_parts(lab.scale)["weak"]]
    return tune(lab, "weak", lab.base(), rows, supervised(), max_steps=lab.scale.weak_steps)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the loop: sample, keep the best, SFT, DPO. Its stages are called after it."""

    number: int

    @property
    def name(self) -> str:
        return f"round {self.number}"

    def before(self, lab: Lab) -> str:
        """The model that it begins with."""
        return Round(self.number - 1).after(lab) if self.number > 1 else lab.model("weak")

    def after(self, lab: Lab) -> str:
        """What it has made of it; the same where no question was solved."""
        return lab.trained(f"{self.name}: DPO", f"{self.name}: SFT") or self.before(lab)

    def problems(self, lab: Lab) -> Sequence[Problem]:
        return train_parts(lab.scale)[self.name]

    def answers(self, lab: Lab) -> Request:
        rows = [question(problem) for problem in self.problems(lab)]
        return distil(lab, self.name, self.before(lab), rows, lab.scale.tries, lab.scale.kept)

    def hints(self, lab: Lab) -> Request | Skipped:
        """The questions that were never solved, asked again with the answer."""
        solved = {row["messages"][0]["content"] for row in self.solved(lab)}
        rows = [
            {"messages": [user(problem.question + HINT.format(problem.answer))], "answer": problem.answer}
            for problem in self.problems(lab)
            if problem.question not in solved
        ]
        if not rows:
            return Skipped("every question was solved")
        return distil(lab, f"{self.name} hints", self.before(lab), rows, lab.scale.tries, k=1)

    def solved(self, lab: Lab) -> list[Row]:
        return lab.rows(results_in(lab.state, f"{self.name}: answers")["sft_file"])

    def rationalized(self, lab: Lab) -> list[Row]:
        """What was found with a hint, as if it had been found without."""
        plain = {problem.question + HINT.format(problem.answer): problem.question for problem in self.problems(lab)}
        rows = lab.rows(results_in(lab.state, f"{self.name}: hints")["sft_file"])
        return [{"messages": [user(plain[asked["content"]]), said]} for asked, said in (r["messages"] for r in rows)]

    def best(self, lab: Lab) -> list[Row]:
        return self.solved(lab) + self.rationalized(lab)

    def sft(self, lab: Lab) -> Request | Skipped:
        rows = self.best(lab)
        if not rows:
            return Skipped("no question was solved")
        return tune(lab, f"{self.name} sft", self.before(lab), rows, supervised(), max_steps=lab.scale.round_steps)

    def dpo(self, lab: Lab) -> Request | Skipped:
        if lab.job(f"{self.name}: SFT") is None:
            return Skipped("no question was solved")
        model, answers = lab.model(f"{self.name}: SFT"), f"{self.name}: answers"
        return dpo_on(lab, f"{self.name} dpo", model, answers, lab.scale.round_dpo_steps)


ROUNDS = (Round(1), Round(2))


def human(lab: Lab) -> Request | Skipped:
    """SFT on as many of the generator's own solutions as both rounds have kept, for as many steps."""
    rows = sum(len(each.best(lab)) for each in ROUNDS)
    if not rows:
        return Skipped("the loop has kept nothing")
    kept = [conversation(problem) for problem in train_parts(lab.scale)["human"][:rows]]
    steps = len(ROUNDS) * lab.scale.round_steps
    return tune(lab, "human", lab.model("weak"), kept, supervised(), max_steps=steps)


# What models are compared by


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model, and the one that it is compared with. `find` looks for its name among the results; `samples` is
    a field of a `Scale`."""

    parent: str | None
    find: Callable[[Lab], str | None]
    samples: str = "model_samples"


BASE, SFT, GRPO, DPO, WEAK, HUMAN = "base", "SFT", "SFT, GRPO", "SFT, DPO", "few examples", "few examples, then human"
AFTER = {each: f"few examples, {each.number} round{'s' * (each.number > 1)}" for each in ROUNDS}
FIRST, SECOND = AFTER.values()
MODELS: Mapping[str, Model] = {
    BASE: Model(None, Lab.base, "base_samples"),
    GRPO: Model(SFT, lambda lab: lab.trained("grpo"), "grpo_samples"),
    DPO: Model(SFT, lambda lab: lab.trained("dpo")),
    WEAK: Model(BASE, lambda lab: lab.trained("weak")),
    FIRST: Model(WEAK, ROUNDS[0].after),
    SECOND: Model(FIRST, ROUNDS[1].after),
    HUMAN: Model(WEAK, lambda lab: lab.trained("human")),
}
"""All but SFT's, which the policies measure."""


def measure(name: str, scale: Scale, minutes: Callable[[int], float]) -> Stage:
    """A model's pass@1, and its majority and pass@k, on the test questions. `minutes` are those of so many answers."""
    most = getattr(scale, MODELS[name].samples)
    sizes = [size for size in scale.sampled if size <= most]

    def create(lab: Lab) -> Request | Skipped:
        strategy = {"type": "self_consistency", "name": name, "samples": sizes}
        model = MODELS[name].find(lab)
        return benchmark(lab, name, model, strategy, scale.tests) if model else Skipped("there is no such model")

    return Stage(name, f"{scale.tests} questions, {most} samples", minutes(scale.tests * most), create)
