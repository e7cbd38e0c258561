"""Graders by themselves: templates, metrics, formulae, judges. Through the API: test_fine_tuning.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.answers.matching import check_schema
from service.answers.pool import AnswerPool
from service.answers.similarity import METRICS, similarity
from service.errors import ApiError
from service.graders import Answer, Sample, build, check, formula, paths, template
from service.graders.asking import Messages
from service.sandbox import Sandbox
from strategies.errors import EngineUnavailable
from tests.conftest import shared_sandbox, shared_workers

ITEM = {
    "answer": "42",
    "steps": [{"text": "six times seven"}],
    "n": 7,
    "a-b": True,
    "größe": "XL",
    "答案": "四",
    "1st": 1,
}


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


async def judge_says(model: str, messages: Messages, fields: Mapping[str, Any]) -> Answer:
    """A judge that repeats the last message, and fails when that asks for it."""
    if messages[-1]["content"] == "fail":
        raise EngineUnavailable("down")
    return Answer(messages[-1]["content"], 5)


def graded(spec: dict[str, Any]) -> Any:
    return build(check({"name": "g", **spec}), shared_workers(), judge_says, shared_sandbox())


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{{item.answer}}", "42"),
        ("a {{ item.steps[0].text }} b", "a six times seven b"),
        ("{{item.steps}}", '[{"text": "six times seven"}]'),
        ("{{item.n}} {{item.a-b}}", "7 true"),
        ("{{item.größe}} {{item.答案}} {{item.1st}}", "XL 四 1"),
        ("{{ sample.output_text }}", '{"x": [1, "two"]}'),
        ("{{sample.output_json.x[1]}}", "two"),
        ("{{sample.output_tools[0].function.name}}", "add"),
        ("{item.answer} }} is text", "{item.answer} }} is text"),
    ],
)
def test_templates_walk_down_items_and_samples(text: str, filled: str) -> None:
    sample = Sample('{"x": [1, "two"]}', [{"function": {"name": "add"}}])
    assert template.fill(text, ITEM, sample) == filled


@pytest.mark.parametrize(
    "text",
    ["{{answer}}", "{{item}}", "{{item.}}", "{{item[0]}}", "{{sample.text}}", "{{item.x + 1}}", "{{item.x()}}", "{{}}"],
)
def test_templates_that_are_no_paths_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        check({"type": "string_check", "name": "g", "input": text, "reference": "", "operation": "eq"})
    assert refused.value.param == "grader.input"


@pytest.mark.parametrize(
    "path", ["item.steps.text", "item.steps[1]", "item.answer[0]", "item.steps.0", "item.__doc__", "item.n.real"]
)
def test_paths_find_only_what_json_gave(path: str) -> None:
    with pytest.raises(template.Unfilled):
        template.fill(f"{{{{{path}}}}}", ITEM, Sample())


@pytest.mark.parametrize(
    ("operation", "text", "reference", "score"),
    [
        ("eq", "a", "a", 1),
        ("eq", "a", "A", 0),
        ("ne", "a", "A", 1),
        ("like", "the answer", "answer", 1),
        ("like", "answer", "the answer", 0),
        ("ilike", "The ANSWER", "answer", 1),
    ],
)
async def test_string_check(operation: str, text: str, reference: str, score: float) -> None:
    spec = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.r}}"}
    assert await graded(spec | {"operation": operation}).grade({"r": reference}, Sample(text)) == score


@pytest.mark.parametrize(
    ("metric", "score"),
    [  # of rouge-score 0.1.2 and nltk 3.9 (sentence_gleu, sentence_bleu with SmoothingFunction().method2)
        ("rouge_1", 0.7692307692307692),
        ("rouge_2", 0.3636363636363636),
        ("rouge_3", 0.0),
        ("rouge_l", 0.7692307692307692),
        ("gleu", 0.3181818181818182),
        ("bleu", 0.31782897044671854),
        ("fuzzy_match", 1 - 10 / 48),  # ten letters inserted or deleted, of 26 + 22
    ],
)
def test_similarity_is_what_other_implementations_say(metric: str, score: float) -> None:
    text, reference = "The cat sat on the red mat.", "the cat is on the mat"
    assert similarity(metric, text, reference) == pytest.approx(score)


@given(st.text(max_size=40))
@settings(deadline=None)  # another process may have the processor
def test_a_text_is_like_itself_and_unlike_nothing(text: str) -> None:
    for metric in METRICS:
        itself = similarity(metric, text, text)
        assert 0 <= itself <= 1 + 1e-9
        assert similarity(metric, text, "") == 0 == similarity(metric, "", text)
        if len(text.split()) > 9 and metric != "bleu":
            assert itself == pytest.approx(1)


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        ("\\frac{1}{2}", "So it is 0.5.", "So it is 2."),
        ("1,000", "We get \\boxed{1000}.", "We get 1."),
        ("First 3 + 4 = 7.\nThen the answer is 7.", "The answer is 7", "The answer is 3"),
        ("It is \\boxed{12}.", "12", "21"),
    ],
)
async def test_math_takes_a_bare_answer_as_it_is_and_the_end_of_a_worked_one(
    reference: str, right: str, wrong: str
) -> None:
    grader = graded({"type": "math", "reference": "{{item.answer}}"})
    assert await grader.grade({"answer": reference}, Sample(right)) == 1.0
    assert await grader.grade({"answer": reference}, Sample(wrong)) == 0.0


async def test_math_compares_answers_as_mathematics() -> None:
    grader = graded({"type": "math", "reference": "{{item.answer}}"})
    sample = Sample("Half of it, so the answer is \\boxed{\\frac{1}{2}}.")
    assert await grader.grade({"answer": "0.5"}, sample) == 1
    assert await grader.grade({"answer": "2"}, sample) == 0
    assert await grader.grade({"answer": "0.5"}, Sample("\\boxed{0.50}")) == 1
    assert await grader.grade({"answer": "$x + 1$"}, Sample("\\boxed{1 + x}")) == 1
    assert await grader.grade({"answer": "$x + 1$"}, Sample("\\boxed{1}")) == 0
    for solution in ("Half of 84.\n#### 42", "Half of 84, which is \\boxed{42}", "The final answer is $42$."):
        assert await grader.grade({"answer": solution}, Sample("\\boxed{42}")) == 1
    assert await grader.grade({"answer": "2"}, Sample("I do not know")) == 0


@pytest.mark.parametrize(
    ("said", "score", "faults"),
    [
        ("It is good. Score: 0.8", 0.8, set()),
        ("4/5", 4, set()),
        ("3 out of 5.", 3, set()),
        ("7", 0, {"model_grader_parse_error"}),
        ("splendid", 0, {"model_grader_parse_error"}),
    ],
)
async def test_a_judge_is_asked_for_a_number_in_range(said: str, score: float, faults: set[str]) -> None:
    spec = {"type": "score_model", "model": "m", "range": [0, 5], "input": [{"role": "user", "content": "{{item.x}}"}]}
    grade = await graded(spec).explain({"x": said}, Sample())
    assert (grade.score, grade.faults, grade.tokens) == (score, faults, {"m": 5})


async def test_a_judge_that_is_down_is_no_reward_of_nothing() -> None:
    spec = {"type": "score_model", "model": "m", "input": [{"role": "user", "content": "fail"}]}
    with pytest.raises(EngineUnavailable):
        await graded(spec).grade({}, Sample())


async def test_multi_computes_over_its_graders() -> None:
    exact = {"type": "string_check", "name": "e", "operation": "eq", "input": "{{sample.output_text}}"}
    spec = {
        "type": "multi",
        "graders": {"exact": exact | {"reference": "yes"}, "other": exact | {"reference": "no"}},
        "calculate_output": "0.5 * exact + max(other, 0.25) ^ 2",
    }
    grade = await graded(spec).explain({}, Sample("yes"))
    assert (grade.score, grade.parts) == (0.5 + 0.0625, {"exact": 1, "other": 0})
    nothing = await graded(spec | {"calculate_output": "1 / other"}).explain({}, Sample("yes"))
    assert (nothing.score, nothing.faults) == (0, {"formula_parse_error"})


async def test_a_sample_that_cannot_be_read_scores_nothing() -> None:
    spec = {"type": "string_check", "operation": "ne", "input": "{{sample.output_json.x}}", "reference": "{{item.r}}"}
    assert (await graded(spec).explain({"r": ""}, Sample("no json"))).faults == {"sample_parse_error"}
    assert (await graded(spec).explain({}, Sample('{"x": 1}'))).faults == {"invalid_variable_error"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a +", "no formula"),
        ("b", "calculate_output: there is no grader 'b'"),
        ("__import__('os')", "may hold"),
        ("a.real", "may hold"),
        ("a if a else a", "may hold"),
        ("'x' * 9", "may hold"),
        ("True", "may hold"),
        ("max(a)", "two or more"),
        ("log(a, 2)", "one number"),
        ("min(*a, 1)", "may hold"),
        ("(" * 300 + "a" + ")" * 300, "longer"),
        ("-" * 399 + "a", ""),
    ],
)
def test_formulae_are_arithmetic_only(text: str, problem: str) -> None:
    exact = {"type": "string_check", "name": "e", "operation": "eq", "input": "", "reference": ""}
    body = {"type": "multi", "name": "m", "graders": {"a": exact}, "calculate_output": text}
    if not problem:
        assert check(body).name == "m"
        return
    with pytest.raises(ApiError, match=problem):
        check(body)


def test_formulae_have_bounded_values() -> None:
    for text in ("9 ^ 9 ^ 9 ^ 9", "exp(10000)", "sqrt(-1)", "(-8) ^ 0.5", "log(0)", "floor(1e308 * 10)"):
        with pytest.raises(formula.NoNumber):
            formula.value(formula.parse(text), {})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"type": "python", "source": "#" * (256 * 1024 + 1)}, "grader.source"),
        ({"type": "python", "source": "é" * (128 * 1024 + 1)}, "grader.source"),
        ({"type": "python"}, "grader.source"),
        ({"type": "regex", "pattern": "a" * 1001}, "grader.pattern"),
        ({"type": "json_schema", "schema": {"const": "a" * 65_536}}, "grader.schema"),
        ({"type": "json_schema", "schema": {"const": nested(101)}}, "grader.schema"),
        ({"type": "label_model"}, "grader.type"),
        ({"operation": "neq"}, "grader.operation"),
        ({"pass_threshold": 1}, "grader.pass_threshold"),
        ({"type": "text_similarity", "evaluation_metric": "meteor"}, "grader.evaluation_metric"),
        ({"type": "multi", "graders": {"a": {"type": "label_model"}}}, "grader.graders.a.type"),
        (
            {"type": "multi", "graders": {"a": {"type": "math", "name": 3}}, "calculate_output": "a"},
            "grader.graders.a.name",
        ),
    ],
)
def test_mistakes_are_named_by_their_path(change: dict[str, Any], param: str) -> None:
    body = {"type": "string_check", "name": "g", "input": "", "reference": "", "operation": "eq"} | change
    if body["type"] != "string_check":
        body = {name: value for name, value in body.items() if name in change or name == "name"}
        body |= {"input": "", "reference": ""} if body["type"] == "text_similarity" else {}
    with pytest.raises(ApiError) as refused:
        check(body)
    assert refused.value.param == param


def test_the_columns_that_a_grader_reads_are_known() -> None:
    body = {"type": "math", "name": "g", "input": "{{sample.output_text}}", "reference": "{{ item.a.b[2] }}"}
    assert {str(path) for path in paths(check(body))} == {"item.a.b[2]"}


async def test_a_job_that_was_killed_is_tried_again_before_it_counts() -> None:
    class Busy(AnswerPool):
        def __init__(self, kills: int) -> None:
            self.limit, self.kills = 2.0, kills

        async def run(self, job: Callable[..., Any], *args: Any) -> Any:
            self.kills -= 1
            if self.kills >= 0:
                raise TimeoutError
            return job(*args)

    spec = check({"type": "math", "name": "g"})
    once = await build(spec, Busy(1), judge_says, shared_sandbox()).explain(ITEM, Sample("\\boxed{42}"))
    assert (once.score, once.faults) == (1, frozenset())
    twice = await build(spec, Busy(2), judge_says, shared_sandbox()).explain(ITEM, Sample("\\boxed{42}"))
    assert (twice.score, twice.faults) == (0, frozenset({"sample_parse_error"}))


ABOUT_ALL = """
def grade(sample, item):
    [call] = sample["output_tools"]
    message = sample["choices"][0]["message"]
    assert message == {"role": "assistant", "content": sample["output_text"], "tool_calls": [call]}
    return item["share"] if sample["output_json"]["a"] == call["function"]["name"] else 0
"""


async def test_python_grades_what_openai_hands_it() -> None:
    grader = graded({"type": "python", "source": ABOUT_ALL, "image_tag": "2025-05-08"})
    sample = Sample('{"a": "add"}', [{"function": {"name": "add"}}])
    grade = await grader.explain({"share": 0.25}, sample)
    assert (grade.score, grade.faults) == (0.25, frozenset())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return 1 / 0", "ZeroDivisionError"),
        ("return '1'", "returned str"),
        ("return 1.5", "returned 1.5"),
        ("return -0.1", "returned -0.1"),
        ("return float('nan')", "number without end"),
        ("return 10 ** 400", "number without end"),
        ("pass", "returned NoneType"),
        ("import socket", "no module 'socket'"),
        ("open('/etc/passwd')", "no files"),
        ("\n  while True: pass", "time limit"),
        ("return 'a' * 10 ** 10", "memory limit"),
    ],
)
async def test_a_python_grader_that_fails_says_how(body: str, says: str) -> None:
    grade = await graded({"type": "python", "source": f"def grade(sample, item): {body}"}).explain({}, Sample("x"))
    assert (grade.score, grade.faults) == (0, frozenset({"python_grader_runtime_error"}))
    assert says in grade.details["python_grader_runtime_error"]


@pytest.mark.parametrize(
    "item", [{"x": nested(900)}, {"x": nested(5000)}, {"x": "\ud800"}, {"\ud800": 1}, {"x": 10**400}]
)
async def test_an_odd_item_ends_no_more_than_its_own_grade(item: dict[str, Any]) -> None:
    grader = graded({"type": "python", "source": "def grade(sample, item): return 1"})
    odd = await grader.explain(item, Sample("[" * 900 + "]" * 900))
    assert odd.score == 1 or odd.faults == frozenset({"python_grader_runtime_error"})
    assert await grader.grade({}, Sample("x")) == 1


@pytest.mark.parametrize(("returned", "score"), [("True", 1), ("False", 0), ("0", 0), ("1", 1), ("0.5", 0.5)])
async def test_truth_is_a_number_to_a_python_grader(returned: str, score: float) -> None:
    source = f"def grade(sample, item): return {returned}"
    assert await graded({"type": "python", "source": source}).grade({}, Sample()) == score


async def test_an_interpreter_that_dies_is_no_fault_of_the_source() -> None:
    class Dying(AnswerPool):
        def __init__(self) -> None:
            self.asked = 0

        def share(self, key: str, request: str) -> Any:
            return self

        async def run(self, job: Callable[..., Any], *args: Any) -> Any:
            self.asked += 1
            raise TimeoutError("the process died")

    pool = Dying()
    spec = check({"type": "python", "name": "g", "source": "def grade(sample, item): return 1"})
    sandbox = Sandbox(pool, shared_sandbox().limits)
    grade = await build(spec, shared_workers(), judge_says, sandbox).explain({}, Sample())
    assert (grade.score, grade.faults, pool.asked) == (0, frozenset({"python_grader_server_error"}), 2)


@pytest.mark.parametrize(
    ("schema", "text", "score"),
    [
        ({"type": "object", "required": ["a"]}, '{"a": 1}', 1),
        ({"type": "object", "required": ["a"]}, '{"b": 1}', 0),
        ({}, "no json", 0),
        ({}, "NaN", 0),
        ({}, "[" * 100_000, 0),
        ({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}, "[1, 2]", 1),
        ({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}, "[1, 2.5]", 0),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}, "1", 0),
    ],
)
async def test_json_schema(schema: dict[str, Any], text: str, score: float) -> None:
    grade = await graded({"type": "json_schema", "schema": schema}).explain({}, Sample(text))
    assert (grade.score, grade.faults) == (score, frozenset())


async def test_json_schema_is_one_of_several() -> None:
    parts = {
        "shape": {"type": "json_schema", "name": "s", "schema": {"type": "array"}},
        "mark": {"type": "regex", "name": "r", "pattern": r"\b3\b"},
        "code": {"type": "python", "name": "p", "source": "def grade(sample, item): return 1 / 0"},
    }
    spec = {"type": "multi", "graders": parts, "calculate_output": "shape / 2 + mark / 4 + code / 4"}
    grade = await graded(spec).explain({}, Sample("[3]"))
    assert (grade.score, grade.parts) == (0.75, {"shape": 1, "mark": 1, "code": 0})
    assert "division by zero" in grade.details["python_grader_runtime_error"]


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/$defs/none"}])
async def test_a_schema_that_cannot_tell_says_so(schema: dict[str, Any]) -> None:
    grade = await graded({"type": "json_schema", "schema": schema}).explain({}, Sample("1"))
    assert (grade.score, grade.faults) == (0, frozenset({"other_error"}))
    assert "schema" in grade.details["other_error"]


@pytest.mark.parametrize(
    ("pattern", "text", "score"), [(r"^\d+$", "42", 1), (r"^\d+$", "42!", 0), (r"(?i)yes", "oh YES", 1), ("b", "a", 0)]
)
async def test_regex(pattern: str, text: str, score: float) -> None:
    assert await graded({"type": "regex", "pattern": pattern}).grade({}, Sample(text)) == score


async def test_a_pattern_and_a_schema_that_never_end_are_killed() -> None:
    workers = AnswerPool(2, 1.0)
    try:
        for spec in (
            {"type": "regex", "pattern": "(a|aa)+$"},
            {"type": "json_schema", "schema": {"pattern": "(a|aa)+$"}, "input": '"{{sample.output_text}}"'},
        ):
            grader = build(check({"name": "g", **spec}), workers, judge_says, shared_sandbox())
            grade = await grader.explain({}, Sample("a" * 100 + "b"))
            assert (grade.score, grade.faults) == (0, frozenset({"other_error"}))
            assert "longer than 1 s" in grade.details["other_error"]
    finally:
        workers.close()


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "integer"}, None),
        ({"type": "number?"}, "no JSON schema"),
        ({"items": [{"$ref": "http://127.0.0.1:9/x.json"}]}, "only references within"),
        ({"$ref": "file:///etc/passwd"}, "only references within"),
    ],
)
def test_schemas_are_checked_and_lead_nowhere(schema: dict[str, Any], problem: str | None) -> None:
    found = check_schema(json.dumps(schema))
    assert found is None if problem is None else problem in (found or "")
