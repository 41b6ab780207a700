"""Towers whose weights ship with the package, and whose activation and positions are their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zsad.backbones.filling import fill, unfilled
from zsad.common.assets import asset
from zsad.errors import CheckpointMismatch, UsageError
from zsad.weights.checkpoints import read_state_dict, sha256_of

__all__ = ["load_shipped"]


def load_shipped(
    build: Callable[[], Any], weights: str, title: str, activation: str | None, position_embedding: str | None
) -> Any:
    """Builds a tower with the weights that ship with the package.

    Args:
        build: makes the tower, which has ``activation`` and ``position_embedding``.
        weights: name of the file below the package's assets.
        title: the tower's name within a sentence.
        activation: what was asked for; None takes the tower's own.
        position_embedding: likewise.

    Raises:
        UsageError: another activation or position embedding than its own was asked for.
        WeightsError: the file is missing or does not fit.
    """
    with unfilled():
        tower = build()
    own = tower.activation, tower.position_embedding
    if activation not in (None, own[0]) or position_embedding not in (None, own[1]):
        raise UsageError(
            f"{title.replace('the ', 'The ', 1)} has activation {own[0]!r} and position_embedding {own[1]!r}; got "
            f"{activation!r} and {position_embedding!r}. Leave them out."
        )
    path = asset(weights)
    try:
        fill(tower, read_state_dict(path))
    except RuntimeError as error:
        raise CheckpointMismatch(f"{path.name} does not fit {title}: {error}") from error
    tower.weights_sha256 = sha256_of(path)
    return tower
