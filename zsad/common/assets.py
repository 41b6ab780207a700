"""Finds the data files of the package: ``prompts/``, ``checkpoints/`` and ``demo/``.

In a wheel they lie under ``zsad/_assets``; in a checkout (an editable install too) at its top level.
"""

from __future__ import annotations

from pathlib import Path

from zsad.errors import WeightsUnavailable

_PACKAGE = Path(__file__).resolve().parents[1]


def asset(relative: str) -> Path:
    """Path of a data file, such as ``asset("prompts/winclip.toml")``.

    Raises:
        WeightsUnavailable: the file is in neither place.
    """
    for root in (_PACKAGE / "_assets", _PACKAGE.parent):
        if (root / relative).exists():
            return root / relative
    raise WeightsUnavailable(
        f"The data file {relative!r} is not part of this installation of zsad. Install the package again, from a wheel or "
        "a complete checkout."
    )
