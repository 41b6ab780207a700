"""The command line: ``zsad predict | watch | calibrate | references | evaluate | finetune | convert | push | demo ...``."""

import sys

from zsad.cli import (  # noqa: F401  (each file registers its command)
    calibrate,
    convert,
    demo,
    doctor,
    evaluate,
    finetune,
    list,
    predict,
    prompts,
    push,
    references,
    verify,
    watch,
)
from zsad.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``zsad``."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
