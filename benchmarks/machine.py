"""On what something was measured, for the tables."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} cores, {cpu}, Python {platform.python_version()}"
