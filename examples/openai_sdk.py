"""Self-consistency through the official SDK: sixteen answers, one vote.

pip install openai; needs a server (`make serve`).
"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OUTTHINK_URL", "http://127.0.0.1:8000").removesuffix("/v1") + "/v1",
    api_key=os.environ.get("OUTTHINK_API_KEY", "none"),
)
completion = client.chat.completions.create(
    model="smollm2",
    messages=[{"role": "user", "content": "What is 17 + 25? Put the answer in \\boxed{}."}],
    max_tokens=100,
    extra_body={"strategy": {"type": "self_consistency", "samples": 16}},
)
outthink = completion.outthink  # type: ignore[attr-defined]
print("answer:", completion.choices[0].message.content)
for vote in outthink["votes"]:
    print(f"{vote['count']:3} votes for {vote['answer']}")
print("usage: ", completion.usage.completion_tokens if completion.usage else 0, "tokens in", outthink["seconds"], "s")
