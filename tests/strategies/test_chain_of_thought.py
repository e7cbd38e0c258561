"""What chain of thought sends, and that it drops nothing."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from strategies.chain_of_thought import INSTRUCTION, ChainOfThought
from strategies.errors import InvalidParameter
from strategies.run import Outcome, run
from strategies.types import Batch, Chat
from tests.strategies.support import engine, finished, says, session

Example = dict[Literal["question", "answer"], str]
SHOTS: tuple[Example, Example] = (
    {"question": "1 + 1?", "answer": "One more than 1 is 2. \\boxed{2}"},
    {"question": "2 + 2?", "answer": "4"},
)


async def sent(strategy: ChainOfThought, *messages: dict[str, Any]) -> list[Any]:
    """The messages that the engine was sent for a conversation."""
    on = session(says("\\boxed{42}"), chat=Chat(messages, {"temperature": 0.3}))
    await finished(strategy, on)
    [(chat, _)] = engine(on).calls
    assert chat.fields == {"temperature": 0.3}
    return list(chat.messages)


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


async def test_the_instruction_stands_behind_the_last_user_message_alone() -> None:
    turns = [system("Be brief."), user("1 + 1?"), {"role": "assistant", "content": "2"}, user("And 6 * 7?")]
    assert await sent(ChainOfThought(), *turns) == [*turns[:3], user(f"And 6 * 7?\n\n{INSTRUCTION}")]


async def test_the_instruction_stands_on_the_user_message_before_a_tools_reply() -> None:
    turns = [user("Weather?"), {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "rain"}]
    assert await sent(ChainOfThought(), *turns) == [user(f"Weather?\n\n{INSTRUCTION}"), *turns[1:]]


async def test_content_parts_stay_and_the_instruction_is_one_more() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "How many?"}]
    assert await sent(ChainOfThought(), user(parts)) == [user([*parts, {"type": "text", "text": INSTRUCTION}])]


async def test_without_a_user_message_the_instruction_is_one() -> None:
    assert await sent(ChainOfThought(), system("Count.")) == [system("Count."), user(INSTRUCTION)]


async def test_the_callers_messages_are_not_changed() -> None:
    message = user("6 * 7?")
    await sent(ChainOfThought(), message)
    assert message == user("6 * 7?")


async def test_other_keys_of_a_message_stay() -> None:
    [message] = await sent(ChainOfThought(), {**user("6 * 7?"), "name": "ada"})
    assert message["name"] == "ada"


async def test_examples_are_turns_between_the_system_prompt_and_the_question() -> None:
    assert await sent(ChainOfThought(SHOTS), system("Be brief."), user("6 * 7?")) == [
        system("Be brief."),
        user("1 + 1?"),
        {"role": "assistant", "content": SHOTS[0]["answer"]},
        user("2 + 2?"),
        {"role": "assistant", "content": "4"},
        user("6 * 7?"),
    ]


async def test_examples_stand_before_the_whole_conversation() -> None:
    turns = [user("Hello"), {"role": "assistant", "content": "Hi"}, user("6 * 7?")]
    messages = await sent(ChainOfThought(SHOTS), *turns)
    assert messages[4:] == turns


@pytest.mark.parametrize(
    "example",
    [{}, {"question": "1 + 1?"}, {"question": "1", "answer": "2", "note": "3"}, {"input": "1", "output": "2"}],
)
def test_an_example_that_is_none_is_refused_by_its_place(example: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        ChainOfThought((SHOTS[0], example))
    assert refused.value.param == "strategy.examples[1]"


async def test_tokens_are_passed_on_one_by_one_and_are_the_answer() -> None:
    on = session(says("six times seven is 42."))
    events = [event async for event in run(ChainOfThought(), on)]
    batches = [event for event in events if isinstance(event, Batch)]
    assert [delta.text for batch in batches for delta in batch.deltas] == ["six", " times", " seven", " is", " 42."]
    assert isinstance(events[-1], Outcome)
    assert events[-1].round.ranked[0].text == "six times seven is 42."


async def test_all_n_answers_come_back_in_order_equal_or_not_cut_or_not() -> None:
    said = ("It is 1.", "It is 2.", "It is 2.", "I give up.")
    on = session(says(*said), chat=Chat((user("?"),), {"n": 4}))
    outcome, _ = await finished(ChainOfThought(), on)
    assert [candidate.text for candidate in outcome.round.ranked] == list(said)
    assert [(vote.answer, vote.count) for vote in outcome.round.votes] == [("2", 2), ("1", 1)]
    assert ChainOfThought().plan(4, 10, None).policy_tokens == 40


@pytest.mark.parametrize("fields", [{}, {"n": None}, {"n": 1}])
async def test_one_answer_is_the_default(fields: dict[str, Any]) -> None:
    on = session(says("42"), chat=Chat((user("?"),), fields))
    outcome, _ = await finished(ChainOfThought(), on)
    assert len(outcome.round.ranked) == engine(on).calls[0][1].n == 1
