"""Asks a server through LiteLLM and prints what it was told; runs in LiteLLM's own environment (.venv-litellm).

python litellm_client.py BASE_URL KEY
"""

import asyncio
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its list of prices is else fetched from the internet
import litellm  # type: ignore[import-not-found, unused-ignore]

STRATEGY = {"strategy": {"type": "self_consistency", "samples": 4}}


def main(base_url: str, key: str) -> None:
    common = {
        "api_base": base_url,
        "api_key": key,
        "messages": [{"role": "user", "content": "What is 17 + 25?"}],
        "max_tokens": 24,
        "num_retries": 0,
    }
    plain = litellm.completion(model="openai/smollm2", **common)
    preset = litellm.completion(model="openai/smollm2@small", **common)
    body = litellm.completion(model="openai/smollm2", extra_body=STRATEGY, **common)
    later = asyncio.run(litellm.acompletion(model="openai/smollm2", extra_body=STRATEGY, **common))
    streamed = litellm.completion(model="openai/smollm2@small", stream=True, **common)
    try:
        litellm.completion(model="openai/nobody", **common)
    except litellm.NotFoundError as error:
        unknown = type(error).__name__
    texts = {"plain": plain, "preset": preset, "body": body, "async": later}
    told = {name: reply.choices[0].message.content for name, reply in texts.items()}
    told["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    details = {name: reply.usage.completion_tokens_details for name, reply in texts.items()}
    reasoning = {name: (detail and detail.reasoning_tokens) or 0 for name, detail in details.items()}
    print(json.dumps({"texts": told, "reasoning": reasoning, "unknown": unknown}))


if __name__ == "__main__":
    main(*sys.argv[1:])
