"""The watcher against small real process trees.

All members of a tree hold the pipe that the test reads, so the pipe's end is the end of the last of them.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.engines import watcher

# A leader, its child and its grandchild, each of which writes its pid when it is ready. `deaf` ones ignore SIGTERM,
# `loose` ones leave the group.
TREE = """
import os, signal, sys
for depth in range(3):
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "loose" in sys.argv and depth:
        os.setsid()
    os.write(1, b"%d\\n" % os.getpid())
    if depth == 2 or os.fork():
        break
if depth == 0 and "exit" in sys.argv:
    os.read(os.open(sys.argv[-1], os.O_RDONLY), 1)  # a FIFO: until the test opens and closes it
    sys.exit(7)
signal.pause()
"""
SECONDS = 120.0  # for things that take milliseconds; only a failing test waits that long


class Tree:
    """A watched tree, from the outside."""

    def __init__(self, pidfile: Path, *words: str, grace: float = SECONDS) -> None:
        self.output, theirs = os.pipe()
        script = str(Path(watcher.__file__))
        self.watcher = subprocess.Popen(
            [
                *(sys.executable, "-I", script, "--pidfile", str(pidfile), "--grace", str(grace)),
                *("--parent", str(os.getpid()), "--", sys.executable, "-I", "-c", TREE, *words),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        assert self.watcher.stdout is not None
        self.leader = int(self.watcher.stdout.readline())
        self.pids = [int(self.line()) for _ in range(3)]

    def line(self) -> bytes:
        return b"".join(iter(lambda: read(self.output, 1), b"\n"))

    def status(self) -> int:
        """The watcher's, after the whole tree is gone."""
        assert read(self.output) == b""
        return self.watcher.wait(SECONDS)

    def close(self) -> None:
        for pid in self.pids:
            if (process := watcher.look(pid)) and process.state not in watcher.DEAD:
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):  # not adopted
                os.waitpid(pid, 0)
        for pipe in (self.watcher.stdin, self.watcher.stdout):
            assert pipe is not None
            pipe.close()
        self.watcher.wait(SECONDS)
        os.close(self.output)


def read(descriptor: int, size: int = 4096) -> bytes:
    ready, _, _ = select.select([descriptor], [], [], SECONDS)
    assert ready, "somebody still holds the pipe"
    return os.read(descriptor, size)


@pytest.fixture
def pidfile(tmp_path: Path) -> Path:
    return tmp_path / "engine.pid"


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def grow(closing: ExitStack, pidfile: Path, *words: str, grace: float = SECONDS) -> Tree:
    tree = Tree(pidfile, *words, grace=grace)
    closing.callback(tree.close)
    return tree


def kill_watcher(tree: Tree) -> None:
    tree.watcher.kill()
    tree.watcher.wait(SECONDS)


def test_the_command_leads_a_group_of_its_own(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    assert tree.leader == tree.pids[0]
    assert {os.getpgid(pid) for pid in tree.pids} == {tree.leader}
    assert {os.getsid(pid) for pid in tree.pids} == {tree.leader}
    assert tree.leader not in (os.getpgid(tree.watcher.pid), os.getpgrp())


def test_group_dies_when_the_parents_pipe_closes(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    assert tree.watcher.stdin is not None
    tree.watcher.stdin.close()
    assert tree.status() == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_group_dies_when_the_watcher_is_told_to_stop(closing: ExitStack, pidfile: Path, number: signal.Signals) -> None:
    tree = grow(closing, pidfile)
    tree.watcher.send_signal(number)
    assert tree.status() == 128 + signal.SIGTERM


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_group_dies_with_its_leader_and_only_with_it(closing: ExitStack, pidfile: Path, victim: int) -> None:
    tree = grow(closing, pidfile)
    os.kill(tree.pids[victim], signal.SIGKILL)
    if victim:
        assert tree.watcher.poll() is None
        tree.watcher.terminate()
    assert tree.status() == 128 + (signal.SIGTERM if victim else signal.SIGKILL)


def test_status_is_the_commands_and_survivors_are_ended(closing: ExitStack, pidfile: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    tree = grow(closing, pidfile, "exit", str(fifo))
    fifo.open("w").close()
    assert tree.status() == 7


def test_those_who_ignore_sigterm_are_killed(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile, "deaf", grace=0.1)
    tree.watcher.terminate()
    assert tree.status() == 128 + signal.SIGKILL


def test_those_who_left_the_group_are_ended_too(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile, "loose")
    assert len({os.getpgid(pid) for pid in tree.pids}) == 3
    tree.watcher.terminate()
    assert tree.status() == 128 + signal.SIGTERM


PARENT = """
import os, signal, subprocess, sys
python, script, pidfile, tree = [sys.executable, "-I"], *sys.argv[1:]
process = subprocess.Popen(
    [*python, script, "--pidfile", pidfile, "--parent", str(os.getpid()), "--", *python, "-c", tree],
    stdin=subprocess.PIPE,
    start_new_session=True,
)
if os.fork() == 0:  # as a pool of workers does; it inherits the watcher's pipe and outlives the parent
    os.close(2)
    os.write(1, b"%d\\n" % os.getpid())
signal.pause()
"""


def test_group_dies_when_the_parent_is_killed_though_a_fork_holds_its_pipe(pidfile: Path) -> None:
    script = str(Path(watcher.__file__))
    output, theirs = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PARENT, script, str(pidfile), TREE], stdout=subprocess.PIPE, stderr=theirs
    ) as parent:
        os.close(theirs)
        assert parent.stdout is not None
        first, second = (
            int(parent.stdout.readline()) for _ in range(2)
        )  # the fork's pid and the group's, in any order
        pids = [int(b"".join(iter(lambda: read(output, 1), b"\n"))) for _ in range(3)]
        parent.kill()
        parent.wait(SECONDS)
        assert read(output) == b""
        fork = ({first, second} - set(pids)).pop()
        assert watcher.look(fork) is not None
        os.kill(fork, signal.SIGKILL)
    os.close(output)


def test_nothing_is_recorded_after_an_orderly_end(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    assert str(tree.leader) in pidfile.read_text()
    tree.watcher.terminate()
    tree.status()
    assert pidfile.read_text() == ""


def test_a_command_that_does_not_exist_is_127(pidfile: Path) -> None:
    arguments = ["--pidfile", str(pidfile), "--", "/no/such/command"]
    ended = subprocess.run(
        [sys.executable, "-I", str(Path(watcher.__file__)), *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == watcher.COULD_NOT_START
    assert "/no/such/command" in ended.stderr


def test_a_second_watcher_of_the_same_pidfile_gives_up(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    arguments = [sys.executable, "-I", str(Path(watcher.__file__)), "--pidfile", str(pidfile), "--", "true"]
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == watcher.CLAIMED
    assert tree.watcher.poll() is None


def test_clean_leaves_a_group_alone_whose_watcher_lives(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    with pytest.raises(BlockingIOError):
        watcher.clean(pidfile, 0)
    assert len(watcher.members(tree.leader)) == 3


@pytest.mark.usefixtures("adopting")
def test_clean_ends_a_group_whose_watcher_was_killed(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile, "deaf")
    kill_watcher(tree)
    assert len(watcher.members(tree.leader)) == 3
    watcher.clean(pidfile, 0)
    assert watcher.members(tree.leader) == []
    assert read(tree.output) == b""
    assert pidfile.read_text() == ""


@pytest.fixture
def adopting() -> Iterator[None]:
    """Orphans come to this process, since who knows when the machine's first process collects them."""
    ctypes.CDLL(None).prctl(watcher.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(watcher.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def lose_leader(tree: Tree) -> None:
    """Kill watcher and leader at one instant."""
    tree.watcher.send_signal(signal.SIGSTOP)
    os.kill(tree.leader, signal.SIGKILL)
    kill_watcher(tree)
    os.waitpid(tree.leader, 0)


@pytest.mark.usefixtures("adopting")
def test_clean_ends_a_group_that_lost_its_leader_as_well(closing: ExitStack, pidfile: Path) -> None:
    tree = grow(closing, pidfile)
    lose_leader(tree)
    assert len(watcher.members(tree.leader)) == 2
    watcher.clean(pidfile, 0)
    assert read(tree.output) == b""


@pytest.mark.usefixtures("adopting")
@pytest.mark.parametrize("field", ["boot", "started"])
def test_clean_never_ends_a_group_with_another_leader(closing: ExitStack, pidfile: Path, field: str) -> None:
    tree = grow(closing, pidfile)
    kill_watcher(tree)
    boot, pgid, started, output = pidfile.read_text().split()
    boot, started = ("another", started) if field == "boot" else (boot, str(int(started) - 1))
    pidfile.write_text(f"{boot} {pgid} {started} {output}")
    watcher.clean(pidfile, 0)
    assert [process.pid for process in watcher.members(tree.leader)] == sorted(tree.pids)


@pytest.mark.usefixtures("adopting")
@pytest.mark.parametrize(("later", "elsewhere"), [(1_000_000, ""), (0, "1")])
def test_clean_never_ends_members_that_may_be_strangers(
    closing: ExitStack, pidfile: Path, later: int, elsewhere: str
) -> None:
    tree = grow(closing, pidfile)
    lose_leader(tree)
    boot, pgid, started, output = pidfile.read_text().split()
    pidfile.write_text(f"{boot} {pgid} {int(started) + later} {output}{elsewhere}")
    watcher.clean(pidfile, 0)
    assert len(watcher.members(tree.leader)) == 2


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3"])
def test_clean_takes_an_empty_or_damaged_record_for_nothing(pidfile: Path, text: str) -> None:
    pidfile.write_text(text)
    watcher.clean(pidfile, 0)
    assert pidfile.read_text() == ""
