"""The command line: ``zsad predict | watch | calibrate | references | evaluate | finetune | convert | export | demo ...``."""

import os
import sys
from pathlib import Path

from zsad.cli import (  # noqa: F401  (each file registers its command)
    calibrate,
    convert,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    finetune,
    kinds,
    list,
    predict,
    prompts,
    push,
    quiz,
    references,
    report,
    verify,
    watch,
)
from zsad.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``zsad``."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # it was closed: without this, a file that is opened next takes its place
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (until the end)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
