"""LangChain: a strategy by the name of the model alone, and one with parameters of its own.

pip install langchain-openai; needs a server (`make serve`).
"""

import os

from langchain_openai import ChatOpenAI
from pydantic import SecretStr

URL = os.environ.get("OUTTHINK_URL", "http://127.0.0.1:8000").removesuffix("/v1") + "/v1"
KEY = SecretStr(os.environ.get("OUTTHINK_API_KEY", "none"))

by_name = ChatOpenAI(model="smollm2@best_of_4", base_url=URL, api_key=KEY, max_completion_tokens=60)
print("smollm2@best_of_4:", by_name.invoke("What is the capital of France?").text)

by_body = ChatOpenAI(
    model="smollm2",
    base_url=URL,
    api_key=KEY,
    max_completion_tokens=60,
    extra_body={"strategy": {"type": "self_consistency", "samples": 4}, "budget": {"seconds": 20}},
)
reply = by_body.invoke("What is 17 + 25?")
print("self_consistency:", reply.text)
print("usage:", reply.usage_metadata)
