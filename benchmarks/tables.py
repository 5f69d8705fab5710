"""What every benchmark writes; run by path (``runpy``) from those that do."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch


def machine() -> dict[str, str]:
    """Return what figures depend on."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return {"cpu": model, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def write(path: Path, document: dict[str, Any]) -> None:
    """Write figures with the machine that they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine()} | document, indent=1) + "\n", encoding="utf-8")
