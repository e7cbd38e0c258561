"""About how long a prompt is, before the engine has tokenized it."""

from __future__ import annotations

from collections.abc import Iterable

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
"""What a chat template never writes into the prompt."""


def characters(value: object) -> int:
    """Of all that may become text of a prompt: messages, tools, documents; a token id counts as a token."""
    match value:
        case str():
            return len(value)
        case int():
            return CHARACTERS
        case dict():
            return sum(len(name) + characters(part) for name, part in value.items() if name not in MEDIA)
        case list() | tuple():
            return sum(map(characters, value))
    return 0


def tokens_about(value: object) -> int:
    """The estimate of what is read of it."""
    return characters(value) // CHARACTERS


def fewest_tokens(texts: Iterable[object]) -> int:
    """The least tokens that they can be."""
    return sum(map(characters, texts)) // LONGEST_TOKEN
