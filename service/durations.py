"""Spans of time as people say them."""

from __future__ import annotations


def spell(seconds: float) -> str:
    """In the two largest units that say something: 45 s, 3 min 40 s, 2 h 5 min."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = {"h": hours, "min": minutes, "s": left}
    said = [f"{count} {unit}" for unit, count in parts.items() if count]
    return " ".join(said[:2]) or "0 s"
