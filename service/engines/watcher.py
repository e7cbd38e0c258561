"""Runs a command and leaves nothing of it behind, whoever dies first.

    python -I watcher.py --pidfile FILE [--grace SECONDS] [--parent PID] -- COMMAND...

vLLM is a tree of processes, and the death of one of them leaves the others running with the memory and the port. So the
command gets a session and a process group of its own, and this small process stays beside it:

1. It says the group's number on standard output, and writes it to FILE.
2. It waits until its standard input closes or PARENT dies, it is told to stop by a signal, or the command exits. Then
   it says `ending` on standard output.
3. It ends every descendant: SIGTERM, and after `grace` seconds (fewer if the command has exited) SIGKILL, until none is
   left.
4. It exits with the command's status; 128 + the signal's number, as a shell does, if a signal ended the command.

Descendants that left the group are ended as well, because orphans come back to this process (a subreaper).

FILE is locked while this process lives. If it is killed, whoever comes next calls `clean`, which ends what is left of
the group, but only what is proven to belong to it. Only the standard library: it has to start in milliseconds.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

PR_SET_CHILD_SUBREAPER = 36
DEAD = "ZX"  # states of /proc/PID/stat
STOP = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
COULD_NOT_START = 127  # as a shell says it
CLAIMED = 75  # EX_TEMPFAIL
ORPHANS = 2.0  # seconds of grace without the command; nobody is left to make an orderly end with


class Process(NamedTuple):
    """What /proc/PID/stat says; `started` is in clock ticks since the machine's start."""

    pid: int
    state: str
    parent: int
    group: int
    started: int


class Group(NamedTuple):
    """What proves that processes are a former command's, when nobody is left who knew them."""

    boot: str
    pgid: int
    started: int  # of the leader
    output: str  # device and inode of the file that all of them write to


def look(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold blanks and brackets
    return Process(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[19]))


def processes() -> Iterator[Process]:
    """The living processes of the machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := look(int(entry.name))) and process.state not in DEAD:
            yield process


def members(pgid: int) -> list[Process]:
    return [process for process in processes() if process.group == pgid]


def descendants(root: int) -> list[int]:
    """Pids of the living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    found = [root]
    for pid in found:  # grows while it is read
        found += children.get(pid, [])
    return found[1:]


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def output_of(pid: int | str) -> str | None:
    try:
        status = Path(f"/proc/{pid}/fd/2").stat()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return f"{status.st_dev}:{status.st_ino}"


def remains(group: Group) -> list[int]:
    """Pids of a former group that still live and are certainly its own.

    The leader's start time proves it while the leader lives. A number without a leader may have gone round the pid
    space to a stranger's group in the meantime, so then every member must write to the group's own log file. (A mark
    in the environment would not do: processes that set their title overwrite it.)
    """
    if group.boot != boot_id():
        return []
    found = members(group.pgid)
    if leader := look(group.pgid):
        return [process.pid for process in found] if leader.started == group.started else []
    return [p.pid for p in found if p.started >= group.started and output_of(p.pid) == group.output]


@contextlib.contextmanager
def claim_pidfile(pidfile: Path, wait: float) -> Iterator[TextIO]:
    """The locked pidfile; raise BlockingIOError if its watcher is alive for longer than `wait` seconds."""
    deadline = time.monotonic() + wait
    with pidfile.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)
        yield file


def read_group(file: TextIO) -> Group | None:
    file.seek(0)
    match file.read().split():
        case [boot, pgid, started, output]:
            return Group(boot, int(pgid), int(started), output)
    return None  # empty after an orderly end, or cut by a full disk


def record(file: TextIO, text: str) -> None:
    # Emptied, never unlinked: a lock on an unlinked file would keep nobody out.
    file.truncate(0)
    file.write(text)
    file.flush()


def clean(pidfile: Path, wait: float) -> None:
    """End what a former run left behind; raise BlockingIOError if its watcher lives on for `wait` seconds."""
    with claim_pidfile(pidfile, wait) as file:
        group = read_group(file)
        while group and (pids := remains(group)):
            send(pids, signal.SIGKILL)
            time.sleep(0.02)
        record(file, "")


def start(command: list[str]) -> int:
    """Start the command in a session of its own, its output where this process complains; return its pid."""
    return os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, and a command should not
    )


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; standard input is closed as well then
        os.write(1, f"{line}\n".encode())


def death_of(pid: int | None) -> list[int]:
    """Descriptors that become readable when the process dies; none where the kernel has no such thing."""
    try:
        return [os.pidfd_open(pid)] if pid else []
    except OSError:
        return []


class Watcher:
    """Waits for the end of a command or of its parent, then ends the command's descendants."""

    def __init__(self) -> None:
        self.signals, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGCHLD, *STOP):
            signal.signal(number, lambda *_: None)  # only the byte in the pipe counts
        signal.set_wakeup_fd(wakeup)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.leader = 0
        self.status: int | None = None

    def wait(self, parent: int | None) -> None:
        """Return when there is a reason to end the command, or it has ended."""
        # A closed pipe is not enough to know of the parent's death: a fork of the parent may hold its other end.
        sources = [0, self.signals, *death_of(parent)]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if STOP & set(self.read_signals()) or not self.reap() or self.status is not None:
                return
            if 0 in ready and not os.read(0, 512):
                return
            if set(ready) - {0, self.signals}:
                return

    def read_signals(self) -> bytes:
        try:
            return os.read(self.signals, 512)
        except BlockingIOError:
            return b""

    def reap(self) -> bool:
        """Collect the dead, and say whether any descendant is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self.leader:
                self.status = status

    def end(self, grace: float) -> None:
        """Return when no descendant is left."""
        deadline = time.monotonic() + grace
        send(descendants(os.getpid()), signal.SIGTERM)
        while self.reap() and (left := deadline - time.monotonic()) > 0:
            select.select([self.signals], [], [], left)
            self.read_signals()
        while self.reap():
            send(descendants(os.getpid()), signal.SIGKILL)
            select.select([self.signals], [], [], 0.05)  # again, for children born meanwhile
            self.read_signals()

    def run(self, command: list[str], pidfile: TextIO, grace: float, parent: int | None) -> int:
        try:
            self.leader = start(command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            return COULD_NOT_START
        leader = look(self.leader)
        record(pidfile, f"{boot_id()} {self.leader} {leader.started if leader else 0} {output_of('self')}\n")
        say(f"{self.leader}")
        self.wait(parent)
        say("ending")
        self.end(grace if self.status is None else min(grace, ORPHANS))
        record(pidfile, "")
        code = os.waitstatus_to_exitcode(self.status or 0)
        return code if code >= 0 else 128 - code


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command and leave nothing of it behind.")
    parser.add_argument("--pidfile", type=Path, required=True)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--parent", type=int, help="pid whose death ends the command")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        with claim_pidfile(options.pidfile, 0) as pidfile:
            return Watcher().run(options.command, pidfile, options.grace, options.parent)
    except BlockingIOError:
        print(f"{options.pidfile} belongs to a command that is still running", file=sys.stderr)
        return CLAIMED


if __name__ == "__main__":
    sys.exit(main())
