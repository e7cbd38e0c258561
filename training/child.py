"""The process that does one job: it imports torch, trains, and reports to the worker that started it.

It can be killed at any moment: what it needs to go on is in the job's folder, and what it publishes is renamed into
place whole. It dies with its worker, since another one may take the job up.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from threading import Event

from service.jobs.methods import METHODS
from training.errors import Paused, TrainingError
from training.task import Done, End, Failed, Report, Stopped, Task

PR_SET_PDEATHSIG = 1
log = logging.getLogger(__name__)


def main(task: Task, connection: Connection, worker: int) -> None:
    """Do the job and report how it ended; the worker's pid is there to see whether it lives."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(1)  # it was too late to ask
    stopping = Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    write_to(task)
    connection.send(ended(task, connection.send, stopping))


def write_to(task: Task) -> None:
    """Send what this process and its libraries print to the job's log, and keep the libraries off the network."""
    task.folder.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=task.settings.log_level, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # vLLM may have the same cores: who waits must not spin
    if task.settings.demo:
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def ended(task: Task, send: Callable[[Report], None], stopping: Event) -> End:
    try:
        return finish(task, send, stopping)
    except Paused:
        return Stopped()
    except TrainingError as error:
        return Failed(str(error), error.code, error.param)
    except Exception as error:
        log.exception("the training failed")
        return Failed(f"the training failed: {type(error).__name__}: {error}", "training_failed")


def finish(task: Task, send: Callable[[Report], None], stopping: Event) -> Done:
    # TRL would import an installed vLLM, which takes seconds and is not used here; this is how not to be found.
    sys.modules["vllm"] = None  # type: ignore[assignment]
    from training.run import TrainingRun

    module, _, function = METHODS[task.spec.method].train.partition(":")
    train: Callable[[TrainingRun], Done] = getattr(importlib.import_module(module), function)
    with closing(TrainingRun(task, send, stopping)) as run:
        return train(run)
