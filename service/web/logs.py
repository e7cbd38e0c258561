"""Logs: short lines with colours for people on a terminal, else a JSON object a line with the id of its request."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter
from rich.console import Console
from rich.text import Text

from service.web.middleware import request_id

Format = Literal["auto", "text", "json"]

CLOCK = logging.Formatter(datefmt="%H:%M:%S")
LEVELS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
STATUSES = {2: "green", 3: "green", 4: "yellow", 5: "red"}


class WithRequest(logging.Filter):
    """Adds the id of the request at hand."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class ForPeople(logging.Handler):
    """One line for each request and each message; what failed is followed by the id to ask about it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = answered(record) if hasattr(record, "route") else said(record)
            line = Text.assemble((f"{CLOCK.formatTime(record, CLOCK.datefmt)}  ", "dim"), message)
            self.console.print(line, soft_wrap=True)
            if record.exc_info:
                self.console.print(CLOCK.formatException(record.exc_info), markup=False, highlight=False)
        except Exception:
            self.handleError(record)


def said(record: logging.LogRecord) -> Text:
    """A message, its level before it where that is more than information."""
    style = LEVELS.get(record.levelname)
    level = Text(f"{record.levelname.lower()}: ", style) if style else Text()
    return level.append(record.getMessage())


def answered(record: logging.LogRecord) -> Text:
    """What a request was and what became of it, of the facts that the gate gives (`web/middleware.py`)."""
    facts = record.__dict__
    line = Text.assemble(
        (str(facts["status"]), STATUSES.get(facts["status"] // 100, "")),
        f" {facts['method']} {facts['route']}  {facts['seconds']:.2f} s",
    )
    if facts["tokens"]:
        line.append(f"  {facts['tokens']:,} tokens")
    if facts["strategy"] != "none":
        line.append(f"  {facts['strategy']}", "cyan")
    if facts["key"] != "anyone":
        line.append(f"  {facts['key']}")
    if facts["status"] >= 400:
        line.append(f"  {facts['request_id']}", "dim")
    return line


def configure(level: str, form: Format, console: Console) -> None:
    """Send all logs to stderr; `auto` is text on a terminal and JSON elsewhere. `console` writes to stderr."""
    handler: logging.Handler
    if form == "text" or (form == "auto" and console.is_terminal):
        handler = ForPeople(console)
    else:
        handler = logging.StreamHandler(sys.stderr)
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s"
        handler.setFormatter(JsonFormatter(fields, rename_fields={"asctime": "time", "levelname": "level"}))
    handler.addFilter(WithRequest())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
