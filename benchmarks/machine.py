"""What the benchmarks write: their numbers, and the machine that they ran on."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["machine", "write_results"]


def machine() -> str:
    """The processor, and how many of its cores there are."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def write_results(file: str, rows: Any) -> None:
    """Write the rows to `file` as JSON, with the command, the machine and the date."""
    command, date = " ".join(["python", *sys.argv]), time.strftime("%Y-%m-%d")
    result = {"command": command, "machine": machine(), "date": date, "rows": rows}
    Path(file).write_text(json.dumps(result, indent=1) + "\n")
