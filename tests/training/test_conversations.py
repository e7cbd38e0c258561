"""Which tokens the loss is on."""

from __future__ import annotations

from typing import Any

from tests.training.support import ASSISTANT, USER, Characters
from training.conversations import IGNORED, Example, examples, hides


def learnt(tokenizer: Characters, example: Example) -> str:
    """The text of the tokens with a loss, a bar wherever others are between them."""
    assert len(example.input_ids) == len(example.labels)
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    text = "".join("|" if label == IGNORED else chr(label) for label in example.labels)
    return "|".join(filter(None, text.split("|")))


def shown(*messages: dict[str, Any], forgets: bool = False, tools: Any = None) -> list[tuple[str, str]]:
    tokenizer = Characters(forgets)
    found = examples(tokenizer, messages, tools)
    return [(tokenizer.decode(example.input_ids), learnt(tokenizer, example)) for example in found]


def test_only_the_assistant_is_learnt_from() -> None:
    assert shown({"role": "system", "content": "Be."}, USER, ASSISTANT) == [("<s:Be.><u:What is 6 * 7?><a:42>", "42>")]


def test_all_its_turns_are_in_one_sequence() -> None:
    assert shown(USER, ASSISTANT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}) == [
        ("<u:What is 6 * 7?><a:42><u:Sure?><a:Yes.>", "42>|Yes.>")
    ]


def test_what_follows_the_last_answer_is_left_out() -> None:
    [(text, _)] = shown(USER, ASSISTANT, {"role": "user", "content": "Sure?"})
    assert text == "<u:What is 6 * 7?><a:42>"


def test_a_message_of_weight_0_is_read_but_not_learnt() -> None:
    [(text, loss)] = shown(USER, {**ASSISTANT, "weight": 0}, USER, {**ASSISTANT, "weight": 1})
    assert text.count("42") == 2
    assert loss == "42>"


def test_a_template_that_forgets_reasoning_makes_several_sequences() -> None:
    thinking = {"role": "assistant", "content": "hm!42"}
    assert shown(USER, thinking, USER, thinking, forgets=True) == [
        ("<u:What is 6 * 7?><a:hm!42>", "hm!42>"),
        ("<u:What is 6 * 7?><a:42><u:What is 6 * 7?><a:hm!42>", "hm!42>"),
    ]


def test_tools_and_parts_reach_the_template_as_it_wants_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    parts = [{"type": "text", "text": "Call"}, {"type": "text", "text": "it."}]
    [(text, loss)] = shown(
        {"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": [call]}, tools=["f"]
    )
    assert text == "[['f']]<u:Call\nit.><a:{'x': 1}>"
    assert loss == "{'x': 1}>"


def test_a_cut_may_leave_nothing_to_learn() -> None:
    example = Example([1, 2, 3], [IGNORED, IGNORED, 3])
    assert example.teaches
    assert not example.cut(2).teaches


def test_a_template_that_leaves_tools_out_is_told_from_one_that_shows_them() -> None:
    class Blind(Characters):
        def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
            return super().apply_chat_template(messages, **options | {"tools": None})

    tool = {"type": "function", "function": {"name": "add"}}
    assert not hides(Characters(), [tool])
    assert hides(Blind(), [tool])
