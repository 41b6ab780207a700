"""The tiny DINOv2 of a fixture as a state dict on disk, and learned tensors that have a table of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsad.errors import UsageError
from zsad.registry import load_backbone
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint, random_tensor
from zsad.verification.tiny_dino import tiny_dino_state_dict

__all__ = ["described_dino", "dino_backbone", "tabled_tensors"]

CALL = re.compile(r"tiny_dino_state_dict\(seed((?:, \w+=\w+)*)\)")


def described_dino(reference: Reference, key: str = "dino") -> dict[str, Tensor]:
    """Weights that the settings describe as a call of the generator.

    Args:
        reference: its settings hold the seed, and at ``key`` the call and the weights' fingerprint.
        key: of the settings.

    Raises:
        UsageError: the call has another form, or its weights are not those that the authors' code ran on.
    """
    about = reference.settings[key]
    hit = CALL.fullmatch(about["call"])
    if not hit:
        raise UsageError(f"The weights of {reference.name!r} are described as {about['call']!r}, which is not understood.")
    words = dict(word.split("=") for word in hit[1].split(", ")[1:])
    state = tiny_dino_state_dict(reference.settings["seed"], **{word: ast.literal_eval(value) for word, value in words.items()})
    if (found := fingerprint(state)) != about["fingerprint"]:
        raise UsageError(
            f"The weights of {reference.name!r} that were generated here have the fingerprint {found[:12]}, the stored outputs "
            f"belong to {about['fingerprint'][:12]}. Please report this, with the version of numpy."
        )
    return state


def dino_backbone(reference: Reference, folder: Path, key: str = "dino", **settings: Any) -> Any:
    """The backbone ``file:...`` of ``described_dino``; ``settings`` as in ``load_backbone``."""
    path = folder / f"{key.replace('/', '-')}.pt"
    torch.save(described_dino(reference, key), path)
    return load_backbone(f"file:{path}", **settings)


def tabled_tensors(reference: Reference, prefix: str) -> dict[str, Tensor]:
    """Learned tensors by the table in ``checkpoint.learned``: normal, some of them with an identity added.

    Args:
        reference: its settings hold the seed and the table.
        prefix: before each name where its values are drawn.
    """
    table: Mapping[str, Mapping[str, Any]] = reference.settings["checkpoint"]["learned"]
    found = {}
    for key, rule in table.items():
        tensor = random_tensor(reference.settings["seed"], prefix + key, rule["shape"], rule["std"], mean=rule["mean"])
        if rule["plus_identity"]:  # "all", or "v": the rows of the values, which are the last ones
            tensor[-tensor.shape[1] :] += torch.eye(tensor.shape[1])
        found[key] = tensor
    return found
