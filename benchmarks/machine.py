"""On what something was measured, for the pages and tables of results."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from service.engines.command import on_cpu


def machine() -> str:
    """This machine, as pages of results name it."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    name = f"{found[1]}, " if found else ""
    return f"{os.cpu_count()} cores ({name}{platform.machine()}), {'no GPU' if on_cpu() else 'a GPU'}"
