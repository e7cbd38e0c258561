"""What must not be in the logs: what people asked, what they were told, and their keys."""

from __future__ import annotations

from uuid import uuid4

import openai
import pytest

from tests.integration.asking import MODEL, asked, strategy, text
from tests.integration.server import ADMIN_KEY, CLIENT_KEY, Server, wait_for


def test_prompts_answers_and_keys_are_not_logged(server: Server, client: openai.OpenAI, base_url: str) -> None:
    secret, request_id, wrong = f"xyzzy{uuid4().hex}", uuid4().hex, f"sk-{uuid4().hex}"
    repeat = asked(f"Repeat this word: {secret}")
    answers = []
    for extra in ({}, strategy("chain_of_thought"), strategy(samples=2), strategy("best_of_n", samples=2)):
        reply = client.chat.completions.create(model=MODEL, messages=repeat, max_tokens=24, extra_body=extra)
        answers.append(text(reply))
    for extra in ({"top_p": 7}, strategy(samples=-1), strategy() | {"answer": {"pattern": f"{secret}("}}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=MODEL, messages=repeat, max_tokens=4, extra_body=extra)
    with (
        openai.OpenAI(base_url=base_url, api_key=wrong, max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(
            model=MODEL, messages=repeat, extra_headers={"X-Request-Id": request_id}, max_tokens=4
        )
    wait_for(lambda: request_id in server.logs())
    logs = server.logs()
    for private in (secret, wrong, CLIENT_KEY, ADMIN_KEY, *(answer for answer in answers if len(answer) > 20)):
        assert private not in logs
    assert "Traceback" not in logs
