"""About how long a prompt is, before the engine has tokenized it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CHARACTERS = 4
"""Of a token, about; the engine's own count replaces the estimate when the request has ended."""

LONGEST_TOKEN = 32
"""Characters that a text has for each of its tokens at most; only long runs of blanks have more."""

MEDIA = frozenset(
    {
        *("image_url", "image_pil", "image_embeds", "input_audio", "audio_url", "audio_embeds", "video_url"),
        *("file", "file_data", "prompt_embeds"),
    }
)
"""What of a part of a message's content never becomes text of the prompt."""


def without_media(messages: object) -> object:
    """Messages, or items of /v1/responses, without what is no text in the parts of their contents."""
    if not isinstance(messages, list | tuple):
        return messages
    return [{**m, "content": read_parts(m["content"])} if is_in_parts(m) else m for m in messages]


def is_in_parts(message: object) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("content"), list)


def read_parts(parts: list[object]) -> list[object]:
    return [
        {name: value for name, value in part.items() if name not in MEDIA} if isinstance(part, Mapping) else part
        for part in parts
    ]


def characters(value: object) -> int:
    """Of all that may become text of a prompt: messages, tools, documents; a token id counts as a token."""
    match value:
        case str():
            return len(value)
        case int():
            return CHARACTERS
        case dict():
            return sum(len(name) + characters(part) for name, part in value.items())
        case list() | tuple():
            return sum(map(characters, value))
    return 0


def tokens_about(value: object) -> int:
    """The estimate of what is read of it."""
    return characters(value) // CHARACTERS


def fewest_tokens(texts: Iterable[object]) -> int:
    """The least tokens that they can be."""
    return sum(map(characters, texts)) // LONGEST_TOKEN
