"""Best-of-N as a stream: progress on the terminal while the server searches, then the winner.

pip install openai; needs a server (`make serve`).
"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OUTTHINK_URL", "http://127.0.0.1:8000").removesuffix("/v1") + "/v1",
    api_key=os.environ.get("OUTTHINK_API_KEY", "none"),
)
stream = client.chat.completions.create(
    model="smollm2",
    messages=[{"role": "user", "content": "Name three planets."}],
    max_tokens=100,
    stream=True,
    extra_body={"strategy": {"type": "best_of_n", "samples": 8}, "include": ["progress"]},
)
for chunk in stream:
    extras = getattr(chunk, "outthink", {})
    if progress := extras.get("progress"):
        line = "round {rounds}: {finished} answers finished, {live} in the making, {tokens} tokens, {seconds} s"
        print(line.format(**progress), file=sys.stderr)
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if usage := extras.get("usage"):
        print(f"\n{usage['policy']['completion']} tokens, and {usage['scorer']['completion']} of the judge")
