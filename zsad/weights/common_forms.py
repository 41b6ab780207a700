"""Common forms in which files of weights come: wrapped, from several GPUs, or not weights at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["flattened", "no_weights", "unwrapped"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "ema")
PARALLEL = "module."  # what nn.DataParallel and DistributedDataParallel put before every name


def unwrapped(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors, or the named groups of tensors, of a loaded file.

    A wrapper is an entry of ``WRAPPERS`` that holds tensors or groups, in a file without tensors of its own: what stands beside
    it (epoch, optimizer) is left out. ``module.`` before every name of a group goes.
    """
    plain = dict(loaded)
    if not any(isinstance(value, Tensor) for value in plain.values()):
        for name in WRAPPERS:
            if _holds_tensors(plain.get(name)):
                return unwrapped(plain[name])
    found = {key: unwrapped(value) if _holds_tensors(value) else value for key, value in plain.items()}
    parallel = bool(found) and all(str(key).startswith(PARALLEL) for key in found)
    return {str(key).removeprefix(PARALLEL): value for key, value in found.items()} if parallel else found


def flattened(state: Mapping[str, Any]) -> dict[str, Any]:
    """Named groups of tensors as one level of names, "group.name"; what is no group of tensors stays."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        inside = flattened(value) if _holds_tensors(value) else {}
        found |= {f"{key}.{name}": one for name, one in inside.items()} if inside else {key: value}
    return found


def _holds_tensors(value: object) -> bool:
    """A group of tensors, or of such groups."""
    return isinstance(value, Mapping) and any(isinstance(one, Tensor) or _holds_tensors(one) for one in value.values())


def no_weights(path: Path) -> str:
    """What a file is that is often downloaded in place of weights, as the end of a sentence; "": none of these."""
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`, or download it from its page"
    if (head[:1] == b"<" and b"<html" in head.lower()) or head[:14].lower() == b"<!doctype html":
        return "is a page of HTML, no file of weights: the download failed or needed a login. Download it again"
    if not head:
        return "is empty, no file of weights. Download or copy it again"
    if head[:1] == b"{" and head.rstrip()[-1:] in b'}",':
        return "is a text (JSON), no file of weights. Give the .safetensors or .pth file beside it"
    return ""
