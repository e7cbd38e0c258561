"""ASGI middleware inside vLLM: every path but /health and /metrics needs the key in `VLLM_API_KEY`.

vLLM's own `--api-key` guards the paths below /v1 and a few others. `/invocations` does what they do without a key, and
`/pause`, `/tokenize` or `/pooling` are open as well: to every user of the machine, though vLLM listens on loopback
only. Imported by vLLM, by the name of the module alone: only the standard library.
"""

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", "/metrics"})
REFUSAL = b'{"error": {"message": "this vLLM belongs to Outthink, and needs its key", "code": 401}}'


class Guard:
    def __init__(self, app: App) -> None:
        self.app = app
        self.key = os.environ.get("VLLM_API_KEY", "").encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in OPEN or self.has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSAL))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})

    def has_key(self, scope: Message) -> bool:
        """Whether the request has the key; without a key nobody has it."""
        given = dict(scope["headers"]).get(b"authorization", b"")
        return bool(self.key) and hmac.compare_digest(given, b"Bearer " + self.key)
