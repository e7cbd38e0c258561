"""Make the virtual environments of this checkout, and do nothing when they are up to date.

    python3 tools/setup.py serve       .venv: vLLM, the service, training, the demo model's weights
    python3 tools/setup.py test        the same and the development tools; .venv-litellm: LiteLLM alone

A machine with an NVIDIA GPU gets the official vLLM, any other its CPU build; OUTTHINK_BUILD=cpu or cuda decides
otherwise. It can be interrupted at any point and goes on when it is started again. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LOG = ROOT / "logs" / "setup.log"
STATE = "outthink-setup.json"

BUILDS = {"cpu": "the CPU build of vLLM, about 3 GB", "cuda": "vLLM for NVIDIA GPUs, about 12 GB"}
EXTRAS = {"serve": ("training",), "test": ("training", "dev")}
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
OLDEST_PYTHON = (3, 11)
# How pip begins the line of a package: `Collecting torch==2.13.0`, `Processing /folder/torch-2.13.0-py3-none-any.whl`.
PACKAGE = re.compile(r"(?:Collecting|Requirement already satisfied:|Processing \S*/) ?([\w.-]+?)(?=[\s<>=!~;]|-\d)")


class SetupError(Exception):
    """What went wrong and what to do about it, in words for the person at the terminal."""


class CommandError(SetupError):
    """A command failed; the end of the log says more."""


class Progress:
    """How far pip is, read off its output: a bar on a terminal, else a line every ten packages."""

    def __init__(self, site: Path, doing: str, total: int = 0) -> None:
        self.site, self.doing, self.total = site, doing, total
        self.name, self.done = "", 0
        self.queue: list[str] = []
        self.before = 0
        self.started = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.shown = ""

    def read(self, line: str) -> None:
        """Take one line of pip's output."""
        if match := PACKAGE.match(line):
            self.done, self.name = self.done + 1, match[1]
        elif match := re.match(r"\s*Downloading (\S+).* \(([\d.]+ [GMk]B)\)", line):
            self.name = f"{match[1].split('/')[-1].split('-')[0]} ({match[2]})"
        elif line.startswith("Installing collected packages:"):
            self.queue = line.split(":", 1)[1].strip().split(", ")
            self.doing, self.total, self.before = "installing", len(self.queue), self.installed()

    def installed(self) -> int:
        return sum(1 for _ in self.site.glob("*.dist-info/INSTALLER"))

    def show(self) -> None:
        """Say how far it is, where that is news."""
        if self.queue:
            self.done = min(max(self.installed() - self.before, 0), self.total)
            self.name = self.queue[min(self.done, self.total - 1)]
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        count = f"{self.done}/{self.total} " if self.total else ""
        text = f"{minutes}:{seconds:02} {self.doing} {count}{self.name}"
        if self.terminal:
            self.draw(text)
        elif self.total and self.shown != (news := f"{self.doing} {self.done // 10}"):
            self.shown = news
            print(text, flush=True)

    def draw(self, text: str) -> None:
        filled = 20 * self.done // max(self.total, self.done, 1)
        columns = shutil.get_terminal_size().columns
        print("\r\x1b[K" + f"[{'#' * filled}{'-' * (20 - filled)}] {text}"[: columns - 1], end="", flush=True)

    def close(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)


@dataclass(frozen=True)
class Environment:
    """One virtual environment: what is to be in it, and what its state file says is."""

    folder: Path
    files: tuple[str, ...]
    build: str = ""
    project: bool = False

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site(self) -> Path:
        return self.folder / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"

    def base(self) -> dict[str, str]:
        """What cannot change without making the environment anew."""
        return {"folder": str(self.folder), "python": "{}.{}".format(*sys.version_info[:2]), "build": self.build}

    def wanted(self) -> dict[str, str]:
        """The files that say what is installed, each with its hash."""
        paths = [REQUIREMENTS / name for name in self.files] + [ROOT / "pyproject.toml"] * self.project
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def state(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads((self.folder / STATE).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_state(self, installed: dict[str, str]) -> None:
        new = self.folder / f"{STATE}.new"
        new.write_text(json.dumps({"base": self.base(), "installed": installed}, indent=1))
        new.replace(self.folder / STATE)

    def ready(self) -> bool:
        state = self.state()
        same = state.get("base") == self.base() and self.python.exists()
        return same and self.wanted().items() <= state.get("installed", {}).items()

    def usable(self) -> bool:
        """Whether there is an environment to go on with, rather than a half-made or a different one."""
        if self.state().get("base") != self.base():
            return False
        command = [str(self.python), "-c", "import pip"]
        return self.python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def install(self, lock: int) -> None:
        """Bring the environment up to date; the state file is written last."""
        if not self.usable():
            self.create(lock)
        before = self.state().get("installed", {})
        self.write_state({})
        self.sweep()
        if self.build == "cpu":
            self.install_torch(lock)
        names = [name for name in self.files if before.get(name) != self.wanted()[name]]
        total = sum(len(pins(REQUIREMENTS / name)) for name in names)
        if names:
            files = [part for name in names for part in ("-r", str(REQUIREMENTS / name))]
            self.pip(["--only-binary", ":all:", *files], Progress(self.site, "fetching", total), lock)
        if self.project:
            self.pip(["--no-build-isolation", "-e", str(ROOT)], Progress(self.site, "installing outthink"), lock)
        self.write_state({**before, **self.wanted()})

    def create(self, lock: int) -> None:
        if self.folder.exists():
            print(f"{self.folder.name} is half made, or of another place, Python or build: making it anew")
            shutil.rmtree(self.folder)
        interpreter: str = getattr(sys, "_base_executable", sys.executable)
        try:
            run([interpreter, "-m", "venv", str(self.folder)], Progress(self.site, f"making {self.folder.name}"), lock)
        except CommandError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            if "ensurepip" in tail(15):
                package = "python{}.{}-venv".format(*sys.version_info[:2])
                raise SetupError(f"this Python cannot make virtual environments: apt install {package}") from error
            raise
        self.write_state({})

    def sweep(self) -> None:
        """Remove what an interrupted pip left: INSTALLER is among the last files that it writes for a package."""
        for folder in self.site.glob("*.dist-info"):
            if not (folder / "INSTALLER").exists():
                shutil.rmtree(folder)
        for folder in self.site.glob("~*"):
            shutil.rmtree(folder, ignore_errors=True)

    def install_torch(self, lock: int) -> None:
        """Take torch from PyTorch's own index where pip as it is configured does not find the CPU build."""
        torch = next(pin for pin in pins(REQUIREMENTS / "cpu.txt") if pin.startswith("torch=="))
        with contextlib.suppress(CommandError):
            return self.pip(["--dry-run", torch], Progress(self.site, f"looking for {torch}"), lock)
        return self.pip(["--index-url", PYTORCH_CPU, torch], Progress(self.site, "fetching", 1), lock)

    def pip(self, arguments: list[str], progress: Progress, lock: int) -> None:
        """Run `pip install --no-deps` with these arguments."""
        command = [str(self.python), "-m", "pip", "install", "--no-deps", "--no-input", "--progress-bar", "off"]
        run([*command, "--disable-pip-version-check", *arguments], progress, lock)


def pins(path: Path) -> list[str]:
    return re.findall(r"^[A-Za-z0-9].*?==\S+", path.read_text(), re.MULTILINE)


def run(command: list[str], progress: Progress, lock: int) -> None:
    """Run a command with its output in the log; it keeps the lock if this process is killed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PIP_USER": "0", "PIP_NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    with LOG.open("ab") as log, LOG.open(errors="replace") as output:
        output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            while process.poll() is None:
                for line in output:
                    progress.read(line)
                progress.show()
                time.sleep(0.2)
        finally:
            progress.close()
            stop(process)
    if process.returncode:
        raise CommandError(advice())


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command that is still running, with the commands that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def tail(lines: int) -> str:
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:])


def advice() -> str:
    """Name the likeliest cause of a failure, from the end of the log."""
    text = tail(40)
    python = ".".join(map(str, sys.version_info[:3]))
    if "No space left" in text:
        free = shutil.disk_usage(ROOT).free // 10**9
        return f"the disk is full ({free} GB are free here): make room, then run the same command again"
    if re.search(r"ConnectionError|Connection refused|resolution|timed out|Max retries|ProxyError|SSLError", text):
        return "the package index could not be reached: look at the network, HTTPS_PROXY, pip's configuration"
    if re.search(r"No matching distribution|not a supported wheel", text):
        return f"pip's index cannot be reached, or lacks a build for Python {python}: `make PYTHON=python3.11` has all"
    return "run the same command again; it goes on where it stopped"


def machine_build() -> str:
    """Which build of vLLM this machine is to have."""
    chosen = os.environ.get("OUTTHINK_BUILD", "")
    if chosen and chosen not in BUILDS:
        raise SetupError(f"OUTTHINK_BUILD is {chosen!r}: it can be cpu, cuda or unset")
    return chosen or ("cuda" if has_gpu() else "cpu")


def has_gpu() -> bool:
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir() and any(driver.iterdir()):
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU " in listing.stdout


def check_machine() -> None:
    if sys.version_info[:2] < OLDEST_PYTHON:
        found = platform.python_version()
        raise SetupError(f"Python {found} is too old: install Python 3.11 or newer, then `make PYTHON=python3.11`")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(f"vLLM is pinned for Linux on x86_64, this is {platform.system()} on {platform.machine()}")


def check_libraries(build: str) -> None:
    """vLLM's CPU build is linked with one system library that is not on every machine."""
    if build == "cpu":
        try:
            ctypes.CDLL("libnuma.so.1")
        except OSError as error:
            hint = "apt install libnuma1, or dnf install numactl-libs"
            raise SetupError(f"vLLM's CPU build needs the system library libnuma: {hint}") from error


def environments(mode: str, build: str) -> list[Environment]:
    """What a mode needs; `build.txt` is what the project itself is installed with."""
    names = (build, "build", "demo", *EXTRAS[mode])
    wanted = [Environment(ROOT / ".venv", tuple(f"{name}.txt" for name in names), build, project=True)]
    if mode == "test":
        wanted.append(Environment(ROOT / ".venv-litellm", ("litellm.txt",)))
    return wanted


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Keep a second set-up of this checkout waiting."""
    with (LOG.parent / "setup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up of this folder", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def set_up(mode: str) -> None:
    """Bring every environment of a mode up to date."""
    check_machine()
    build = machine_build()
    wanted = environments(mode, build)
    if all(environment.ready() for environment in wanted):
        return
    check_libraries(build)
    LOG.parent.mkdir(exist_ok=True)
    with locked() as lock:
        started = time.monotonic()
        LOG.write_text("")
        print(f"Setting up {BUILDS[build]}; pip's words are in {LOG.relative_to(ROOT)}", flush=True)
        for environment in wanted:
            if not environment.ready():
                environment.install(lock)
        print(f"Set up in {time.monotonic() - started:.0f} s", flush=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up(arguments[0])
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this stopped.", file=sys.stderr)
        return 130
    except SetupError as error:
        if isinstance(error, CommandError):
            print(tail(15), file=sys.stderr)
        print(f"\nSet-up failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
