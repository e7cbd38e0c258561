"""What a benchmark starts ends with it."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import free_port
from tests.integration.server import born

MEASURING = """
import signal, sys
from benchmarks.servers import running

with running(["http.server", sys.argv[1], "--bind", "127.0.0.1"], int(sys.argv[1]), "/") as server:
    print(server.pid, flush=True)
    signal.pause()
"""


def test_sigterm_ends_the_server_too() -> None:
    command = [sys.executable, "-c", MEASURING, str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        server = next(int(line) for line in process.stdout if line.strip().isdigit())  # it prints as well
        assert born(server) is not None
        process.terminate()
        assert process.wait(60) == 143
    assert born(server) is None
