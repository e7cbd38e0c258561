"""The formats of graders: OpenAI's, and ours (`math`, `json_schema`, `regex`). Unknown fields are mistakes."""

from __future__ import annotations

import ast
import json
import keyword
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from service.errors import ApiError, invalid
from service.graders import formula, template
from service.schema import Strict

Metric = Literal["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
Name = Annotated[str, Field(min_length=1, max_length=64)]


SOURCE_BYTES = 256 * 1024
"""Of a `python` grader, as OpenAI's."""
SCHEMA_CHARACTERS = 65_536
SCHEMA_LEVELS = 100


def readable(text: str) -> str:
    template.parse(text)
    return text


Template = Annotated[str, AfterValidator(readable)]


class StringCheck(Strict):
    """1 or 0: equal, not equal, or `reference` is contained in `input` (`like`; `ilike` without case)."""

    type: Literal["string_check"]
    name: Name
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    def templates(self) -> Iterator[str]:
        yield from (self.input, self.reference)


class TextSimilarity(Strict):
    """How alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    name: Name
    input: Template
    reference: Template
    evaluation_metric: Metric

    def templates(self) -> Iterator[str]:
        yield from (self.input, self.reference)


class Math(Strict):
    """Ours. 1 when the final answer in `input` is mathematically equal to `reference`, else 0."""

    type: Literal["math"]
    name: Name
    input: Template = "{{sample.output_text}}"
    reference: Template = "{{item.answer}}"

    def templates(self) -> Iterator[str]:
        yield from (self.input, self.reference)


def deeper(value: object, levels: int) -> bool:
    """Whether JSON has more levels than so many."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(deeper(part, levels - 1) for part in within)


class JsonSchema(Strict):
    """Ours. 1 when `input` is JSON that the schema allows, else 0."""

    type: Literal["json_schema"]
    name: Name
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    input: Template = "{{sample.output_text}}"

    @field_validator("schema_")
    @classmethod
    def bounded(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if deeper(schema, SCHEMA_LEVELS):
            raise ValueError(f"must have at most {SCHEMA_LEVELS} levels")
        if len(json.dumps(schema)) > SCHEMA_CHARACTERS:
            raise ValueError(f"must have at most {SCHEMA_CHARACTERS:,} characters as JSON")
        return schema

    @property
    def text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.schema_)

    def templates(self) -> Iterator[str]:
        yield self.input


class Regex(Strict):
    """Ours. 1 when the pattern is found in `input`, else 0."""

    type: Literal["regex"]
    name: Name
    pattern: Annotated[str, Field(min_length=1, max_length=1000)]
    input: Template = "{{sample.output_text}}"

    def templates(self) -> Iterator[str]:
        yield self.input


def short_enough(source: str) -> str:
    if len(source.encode(errors="replace")) > SOURCE_BYTES:
        raise ValueError(f"must have at most {SOURCE_BYTES // 1024} KiB")
    return source


class Python(Strict):
    """What `grade(sample, item)` of a source returns, in Monty, which is a subset of Python that reaches nothing.

    `image_tag` is OpenAI's name of an image with libraries; there is none here, and it changes nothing.
    """

    type: Literal["python"]
    name: Name
    source: Annotated[str, AfterValidator(short_enough)]
    image_tag: str | None = None

    def templates(self) -> Iterator[str]:
        yield from ()


class TextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: Template


class InputMessage(Strict):
    role: Literal["user", "assistant", "system", "developer"]
    content: Template | TextPart | list[Template | TextPart]
    type: Literal["message"] = "message"

    @property
    def texts(self) -> list[str]:
        parts = self.content if isinstance(self.content, list) else [self.content]
        return [part.text if isinstance(part, TextPart) else part for part in parts]


class SamplingParams(Strict):
    """How the grading model samples. OpenAI spells `max_completions_tokens` with an s."""

    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class ScoreModel(Strict):
    """A served model is asked for a number within `range`; the last number it says counts."""

    type: Literal["score_model"]
    name: Name
    model: str
    input: Annotated[list[InputMessage], Field(min_length=1)]
    range: Annotated[list[float], Field(min_length=2, max_length=2)] = [0.0, 1.0]  # noqa: RUF012 (pydantic copies it)
    sampling_params: SamplingParams = SamplingParams()

    @model_validator(mode="after")
    def ordered(self) -> ScoreModel:
        if self.range[0] >= self.range[1]:
            raise ValueError("range must be the lowest and the highest score")
        return self

    def templates(self) -> Iterator[str]:
        for message in self.input:
            yield from message.texts


One = StringCheck | TextSimilarity | ScoreModel | Math | Python | JsonSchema | Regex
Single = Annotated[One, Field(discriminator="type")]


def nameable(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name) or name in formula.FUNCTIONS:
        raise ValueError(f"{name!r} cannot be a name in calculate_output")
    return name


class Multi(Strict):
    """Several graders by name, and a formula over their scores."""

    type: Literal["multi"]
    name: Name
    graders: Annotated[dict[Annotated[str, AfterValidator(nameable)], Single], Field(min_length=1, max_length=32)]
    calculate_output: str

    @field_validator("calculate_output")
    @classmethod
    def computable(cls, text: str, info: ValidationInfo) -> str:
        unknown = formula.names(formula.parse(text)) - info.data.get("graders", {}).keys()
        if unknown and "graders" in info.data:
            raise ValueError(f"there is no grader {min(unknown)!r}")
        return text

    @property
    def tree(self) -> ast.expr:
        return formula.parse(self.calculate_output)

    def templates(self) -> Iterator[str]:
        for grader in self.graders.values():
            yield from grader.templates()


GraderSpec = Annotated[One | Multi, Field(discriminator="type")]
ADAPTER: TypeAdapter[GraderSpec] = TypeAdapter(GraderSpec)
TYPES = ("string_check", "text_similarity", "score_model", "python", "multi", "math", "json_schema", "regex")


def check(body: object, where: str = "grader") -> GraderSpec:
    """The grader that a request describes; raise ApiError with the path of what is wrong."""
    if not isinstance(body, Mapping):
        raise ApiError(400, f"{where}: must be an object with a type", where)
    for param, kind in [(f"{where}.type", body.get("type")), *types_within(body, where)]:
        if kind not in TYPES:
            raise ApiError(400, f"{param}: there is no grader {kind!r}; there are {', '.join(TYPES)}", param)
    try:
        return ADAPTER.validate_python(body)
    except ValidationError as error:
        raise mend(error, where) from error


def types_within(body: Mapping[str, Any], where: str) -> Iterator[tuple[str, object]]:
    graders = body.get("graders")
    for name, grader in graders.items() if isinstance(graders, Mapping) else ():
        if isinstance(grader, Mapping):
            yield f"{where}.graders.{name}.type", grader.get("type")


def mend(error: ValidationError, where: str) -> ApiError:
    """The first mistake, by its path in the request: without the types by which pydantic chose the model."""
    wrong = invalid(error, (where,))
    param = ".".join(part for part in (wrong.param or "").split(".") if part not in TYPES)
    return ApiError(400, wrong.message.replace(wrong.param or "", param, 1), param, wrong.code)


def paths(spec: GraderSpec) -> set[template.Path]:
    """The paths of a row that a grader reads, so that a file can be checked before it is used."""
    return {path for text in spec.templates() for path in template.paths(text) if path.root == "item"}


def reads_calls(spec: GraderSpec) -> bool:
    """Whether a grader reads tool calls, which there are none of without tools."""
    found = (path for text in spec.templates() for path in template.paths(text))
    return any(path.root == "sample" and path.steps[0] == "output_tools" for path in found)


def dump(spec: GraderSpec) -> dict[str, Any]:
    """A grader as a request spells it."""
    return spec.model_dump(exclude_none=True, by_alias=True)


def models(spec: GraderSpec) -> set[str]:
    """The served models that a grader asks."""
    graders = spec.graders.values() if isinstance(spec, Multi) else [spec]
    return {grader.model for grader in graders if isinstance(grader, ScoreModel)}
