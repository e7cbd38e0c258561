"""Running Python that a model or a client wrote: in Monty, an interpreter that reaches nothing, under limits.

Monty is a subset of Python without files, network, environment or processes. Every program gets a fresh interpreter
process (programs.py), which a worker of a pool of its own starts, watches and ends (service/answers/pool.py). What
Monty does not know is told apart from what is wrong (support.py).
"""

from service.sandbox.blocks import last_code_block
from service.sandbox.programs import Limits, StdinCase
from service.sandbox.sandbox import GraderFailed, Sandbox, TestsResult, open_sandbox

__all__ = [
    "GraderFailed",
    "Limits",
    "Sandbox",
    "StdinCase",
    "TestsResult",
    "last_code_block",
    "open_sandbox",
]
