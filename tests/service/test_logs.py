"""The log: short lines for people, JSON for machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from service.web import logs
from service.web.middleware import request_id


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


FACTS = {"method": "POST", "route": "/v1/chat/completions", "status": 200, "seconds": 2.3456}
FACTS |= {"key": "client-1", "strategy": "self_consistency", "tokens": 1024}


def lines(form: logs.Format, *, terminal: bool = False, **facts: object) -> list[str]:
    """What one request and one warning of it write to a console of 40 columns."""
    file = io.StringIO()
    logs.configure("INFO", form, Console(file=file, force_terminal=terminal, width=40, color_system=None))
    request_id.set("r-1")
    logging.getLogger("outthink.access").info("request", extra={**FACTS, **facts})
    logging.getLogger("service").warning("no training worker: [%s]", "nothing")
    return file.getvalue().splitlines()


@pytest.mark.parametrize(("form", "terminal"), [("text", False), ("auto", True)])
def test_people_get_a_line_a_request(form: logs.Format, terminal: bool) -> None:
    request, warning = (line[8:] for line in lines(form, terminal=terminal))
    assert request == "  200 POST /v1/chat/completions  2.35 s  1,024 tokens  self_consistency  client-1"
    assert warning == "  warning: no training worker: [nothing]"


def test_what_failed_has_its_id_and_what_is_usual_is_left_out() -> None:
    request, _ = lines("text", status=404, key="anyone", strategy="none", tokens=None)
    assert request[8:] == "  404 POST /v1/chat/completions  2.35 s  r-1"


def test_an_exception_follows_its_message() -> None:
    file = io.StringIO()
    logs.configure("INFO", "text", Console(file=file, width=40))
    try:
        raise ValueError("[odd]")
    except ValueError:
        logging.getLogger("service").exception("it broke")
    first, *_, last = file.getvalue().splitlines()
    assert first.endswith("error: it broke")
    assert last == "ValueError: [odd]"


@pytest.mark.parametrize(("form", "terminal"), [("json", True), ("auto", False)])
def test_machines_get_json_with_the_id_of_the_request(
    form: logs.Format, terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(form, terminal=terminal) == []
    request, warning = map(json.loads, capsys.readouterr().err.splitlines())
    assert {name: request[name] for name in FACTS} == FACTS
    assert (request["request_id"], warning["level"]) == ("r-1", "WARNING")
