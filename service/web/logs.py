"""Structured logs: a JSON object a line, or plain lines on a terminal; each with the id of its request."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from service.web.middleware import request_id


class WithRequest(logging.Filter):
    """Adds the id of the request at hand."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class Plain(logging.Formatter):
    """For people: the time, the message, and the facts of a request behind it."""

    FACTS = ("method", "route", "status", "seconds", "key", "strategy", "tokens", "request_id")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        facts = {name: getattr(record, name, None) for name in self.FACTS}
        return " ".join([line, *(f"{name}={value}" for name, value in facts.items() if value not in (None, ""))])


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(WithRequest())
    if sys.stderr.isatty():
        handler.setFormatter(Plain("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    else:
        fields = "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s"
        handler.setFormatter(JsonFormatter(fields, rename_fields={"asctime": "time", "levelname": "level"}))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
