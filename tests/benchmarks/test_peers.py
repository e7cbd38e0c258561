"""The comparison with the peers, on runners and servers that are none: nothing of the peers is needed."""

from __future__ import annotations

import json
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import measuring, racing, results
from benchmarks.peers.measuring import Engine, Measured, PeerFailed, make_environment, measure, row_of
from benchmarks.peers.methods import PEERS, Method, methods
from benchmarks.peers.racing import OUT, PAGE, Servers, Settings, attempt, choose
from benchmarks.peers.results import OtherSettings, Results, markdown, write_page
from benchmarks.servers import ENGINE_KEY
from service.benchmarks.arithmetic import Problem, generate

PROBLEMS = generate(4, steps=2, digits=1)
OPTIONS = shlex.split("--url u --model m --samples 4 --max-tokens 9 --step-tokens 4 --temperature 1 --at-once 2")
SETTINGS: dict[str, Any] = {**Settings(questions=4).told(), "machine": "two cores"}
ORDER = [method.full_name for method in methods(8, 48)]


class Counting:
    """An engine that counts 10 tokens more whenever it is asked, and writes down what it was asked."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def engine(self) -> Engine:
        return Engine(self.count, lambda: self.calls.append("forget"))

    def count(self) -> dict[str, int]:
        self.calls.append("count")
        return {name: 10 * len(self.calls) for name in ("generated", "prompt", "cached")}


def answered(method: str, folder: Path, **more: Any) -> Measured:
    command = [sys.executable, "-m", "tests.benchmarks.answering", method, *OPTIONS]
    return measure(command, PROBLEMS, Counting().engine(), folder / "log", **more)


def test_all_questions_are_answered_so_many_at_a_time_and_the_first_is_not_counted(tmp_path: Path) -> None:
    ticks: list[int] = []
    counting = Counting()
    command = [sys.executable, "-m", "tests.benchmarks.answering", "answers", *OPTIONS]
    measured = measure(command, PROBLEMS, counting.engine(), tmp_path / "log", tick=lambda: ticks.append(1))
    assert sorted(answer["id"] for answer in measured.answers) == ["0", "1", "2", "3"]
    assert max(answer["text"] for answer in measured.answers) == "2 at once"
    assert len(ticks) == 4
    assert counting.calls == ["forget", "count", "count"]
    assert measured.spent == {"generated": 10, "prompt": 10, "cached": 10}
    assert measured.seconds > 0
    assert "what a peer prints" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("absent", "^ModuleNotFoundError: No module named 'peer'$"),
        ("dies", r"^ended after \d of 4 questions: ran out of memory$"),
    ],
)
def test_a_runner_that_ends_is_an_error_that_says_its_last_words(method: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=error):
        answered(method, tmp_path)


def test_a_runner_that_hangs_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"it was stopped after 6 s$"):
        answered("hangs", tmp_path, limit=6)


def right_if_first(text: str, answer: str) -> bool:
    return text == "right" and answer in {problem.answer for problem in PROBLEMS}


def test_an_answer_that_failed_is_wrong_and_the_first_error_is_kept(tmp_path: Path) -> None:
    row = row_of(answered("raises once", tmp_path), PROBLEMS, lambda text, _: bool(text))
    assert row["right"].count("1") == 3
    assert (row["failed"], row["error"]) == (1, "ValueError: no such model")


def test_where_all_answers_failed_there_is_only_an_error(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match=r"^ValueError: no such model$"):
        row_of(answered("raises", tmp_path), PROBLEMS, right_if_first)


def test_answers_are_graded_in_the_order_of_the_questions() -> None:
    problems = [Problem("a", "1", ""), Problem("b", "2", ""), Problem("c", "3", "")]
    said = [("2", "3"), ("0", "0"), ("1", "2")]
    answers = [{"id": i, "text": text, "seconds": float(i), "error": None} for i, text in said]
    spent = {"generated": 30, "prompt": 9, "cached": 3}
    row = row_of(Measured(answers, 6.0, spent), problems, lambda text, answer: text == answer)
    told = {"right": "011", "seconds": 6.0, "median_seconds": 1.0, "failed": 0, "error": None}
    assert row == {**told, **spent}


def kept(method: str, **more: Any) -> dict[str, Any]:
    spent = {"generated": 400, "prompt": 100, "cached": 60, "seconds": 8.0, "median_seconds": 1.5}
    return {"method": method, "knobs": "k 8", "right": "1101", "failed": 0, "error": None, **spent, **more}


def test_results_grow_and_those_of_the_same_settings_are_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    first = Results.load(file, SETTINGS, ORDER, fresh=False)
    first.keep(kept("outthink/mcts"))
    first.keep({"method": "optillm/bon", "knobs": "", "error": "none"})
    again = Results.load(file, SETTINGS, ORDER, fresh=False)
    assert again.done("outthink/mcts")
    assert not again.done("optillm/bon"), "one that failed is tried again"
    assert not again.done("its-hub/beta")
    assert again.json() == json.loads(file.read_text())
    assert [row["method"] for row in again.json()["rows"]] == ["optillm/bon", "outthink/mcts"]
    assert Results.load(file, SETTINGS, ORDER, fresh=True).rows == {}


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    Results.load(file, SETTINGS, ORDER, fresh=False).keep(kept("outthink/mcts"))
    with pytest.raises(OtherSettings, match=r"another machine, questions: give --fresh, or --out"):
        Results.load(file, {**SETTINGS, "questions": 5, "machine": "ten cores"}, ORDER, fresh=False)


def test_the_table_has_figures_of_one_question_and_errors(tmp_path: Path) -> None:
    rows = [kept("optillm/majority_voting"), {"method": "optillm/deepconf", "knobs": "", "error": "a <b> | c"}]
    text = markdown({"settings": SETTINGS, "at": "2026-12-01T00:00:00+00:00", "rows": rows})
    assert "| optillm 0.4.0, majority_voting | 75% | 30% to 95% | 100 | 10 | 2.00 | 0 | k 8 |" in text
    assert "| optillm 0.4.0, deepconf |  |  |  |  |  | all | a &lt;b> \\| c |" in text
    assert "A trial, of which nothing can be concluded: 4 questions, smollm2-sums, 8 samples, temperature 1, " in text
    page = tmp_path / "page.md"
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    for _ in range(2):
        write_page(page, {"settings": SETTINGS, "at": "2026-12-01T00:00:00+00:00", "rows": rows})
        assert page.read_text() == f"before\n{text}\nafter\n"


def test_the_page_shows_the_results_that_are_kept() -> None:
    assert markdown(json.loads(OUT.read_text())) in PAGE.read_text()


def test_methods_are_chosen_by_peer_and_by_name() -> None:
    every = methods(8, 48)
    assert choose(every, []) == list(every)
    chosen = choose(every, ["its-hub/beta", "optillm"])
    assert {method.peer for method in chosen} == {"its-hub", "optillm"}
    assert [method.name for method in chosen if method.peer == "its-hub"] == ["beta"]
    with pytest.raises(ValueError, match=r"--only: there is no its-hub/alpha; there are its-hub, its-hub/adaptive, "):
        choose(every, ["its-hub/alpha"])


@pytest.mark.parametrize("peer", [name for name, peer in PEERS.items() if peer.package])
def test_the_version_of_a_peer_is_the_one_that_is_pinned(peer: str) -> None:
    package = PEERS[peer].package
    pinned = (measuring.ROOT / "requirements" / f"{PEERS[peer].environment}.txt").read_text()
    assert re.search(rf"^{re.escape(package)}$", pinned, re.MULTILINE)
    assert PEERS[peer].title == package.replace("==", " ")


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ROOT", tmp_path)
    recipe = "@echo 'WARNING: slow' >&2; echo 'ERROR: no matching distribution' >&2; exit 1"
    (tmp_path / "Makefile").write_text(f".venv-a:\n\t@mkdir $@\n.venv-b:\n\t{recipe}\n")
    assert make_environment("a") == str(tmp_path / ".venv-a" / "bin" / "python")
    with pytest.raises(PeerFailed, match=r"^cannot be installed: ERROR: no matching distribution$"):
        make_environment("b")


@contextmanager
def endpoint(answer: Callable[[dict[str, Any]], str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A chat endpoint, with the key in what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({**body, "key": self.headers["Authorization"], "path": self.path})
            reply = json.dumps({"choices": [{"message": {"content": answer(body)}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


SMALL = Settings(model="m", questions=3)


def solve(body: dict[str, Any]) -> str:
    """The answer to a question of `generate`."""
    question = str(body["messages"][0]["content"])
    signs = {"with": 1, "add": 1, "subtract": -1}
    return str(sum(signs[word] * int(number) for word, number in re.findall(r"(with|add|subtract) (\d+)", question)))


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Servers, list[dict[str, Any]]]]:
    monkeypatch.setattr(racing, "LOGS", tmp_path / "logs")
    with endpoint(solve) as (url, asked):
        yield Servers(f"{url}/vllm", f"{url}/service", Counting().engine(), lambda text, answer: text == answer), asked


@pytest.mark.parametrize(
    ("name", "path", "key"),
    [
        ("vllm/one_sample", "/vllm/v1/chat/completions", f"Bearer {ENGINE_KEY}"),
        ("outthink/until_verified", "/service/v1/chat/completions", None),
    ],
    ids=["vLLM", "service"],  # a key is another one in every process
)
def test_vllm_and_the_service_are_asked_the_same(
    name: str, path: str, key: str | None, servers: tuple[Servers, list[dict[str, Any]]]
) -> None:
    method = next(method for method in methods(8, 48) if method.full_name == name)
    row = attempt(method, sys.executable, SMALL, servers[0], lambda: None)
    assert (row["right"], row["error"]) == ("111", None)
    assert len(servers[1]) == 4
    for body in servers[1]:
        assert (body["path"], body["key"]) == (path, key)
        assert {**body, "messages": None} == {
            **method.body,
            "model": "m",
            "max_tokens": 96,
            "temperature": 1.0,
            "messages": None,
            "path": path,
            "key": key,
        }


def test_a_method_without_an_environment_is_a_row(servers: tuple[Servers, list[dict[str, Any]]]) -> None:
    method = Method("optillm", "bon")
    row = attempt(method, PeerFailed("cannot be installed: no"), SMALL, servers[0], lambda: None)
    assert row == {"error": "cannot be installed: no"}


def test_what_is_measured_is_not_measured_again(
    servers: tuple[Servers, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int] = []

    @contextmanager
    def serving(settings: Settings) -> Iterator[Servers]:
        starts.append(settings.questions)
        yield servers[0]

    monkeypatch.setattr(racing, "serving", serving)
    file = tmp_path / "peers.json"
    for only in (["vllm"], ["vllm", "outthink/mcts"], ["vllm"]):
        racing.run(SMALL, only, out=file)
    assert [row["method"] for row in json.loads(file.read_text())["rows"]] == ["vllm/one_sample", "outthink/mcts"]
    assert (starts, len(servers[1])) == ([3, 3], 8)
    with pytest.raises(SystemExit):
        racing.run(Settings(model="other"), ["vllm"], out=file)
    with pytest.raises(SystemExit):
        racing.run(SMALL, ["nobody"], out=file)
