"""The command line: ``zsad predict | calibrate | references | evaluate | finetune | convert | push | demo | list ...``."""

import sys

from zsad.cli import assess, demo, list, push, score  # noqa: F401  (register their commands)
from zsad.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``zsad``."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
