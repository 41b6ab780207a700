"""The demo in its own process, as a user starts it, with its temporary files in a folder of the test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Served:
    """A running demo."""

    url: str
    scratch: Path  # all files that it writes
    pid: int

    def pictures_left(self) -> list[Path]:
        """Files of visitors that are still on disk."""
        names = (Path(folder) / name for folder, _, files in os.walk(self.scratch) for name in files)
        return [path for path in names if path.suffix in {".png", ".jpg", ".webp", ".zip"}]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SMALL = """
import sys

from zsad.cli import main
from zsad.common.assets import asset

sys.path.insert(0, str(asset("demo")))
from zsad_demo import inspectors

inspectors.KEYWORDS["compact"] = {"tower": "small"}
main()
"""


@contextmanager
def served(scratch: Path, *options: object, small: bool = False) -> Iterator[Served]:
    """``zsad demo`` on a free port, with further options.

    Args:
        scratch: a folder for its temporary files.
        small: ``compact`` looks with one tower, a fifth of the time, where another one's scores prove nothing more.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"TMPDIR": str(scratch), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("GRADIO_TEMP_DIR", None)
    program = ["-c", SMALL] if small else ["-m", "zsad"]
    command = [sys.executable, *program, "demo", "--port", str(port), *map(str, options)]
    with (scratch / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(url, process, scratch / "server.log")
        yield Served(url, scratch, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the demo ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the demo did not answer within {seconds} s: {log.read_text(errors='replace')[-2000:]}")
