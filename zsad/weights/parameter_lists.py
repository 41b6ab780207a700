"""Files that ``torch.save`` made of a ``ParameterList``, read without torch's classes and without code from the file.

Such a file is a zip archive: ``data.pkl`` describes tensors whose bytes are in ``data/0``, ``data/1``, ... The description is
read with a table of what it may name; each name stands for a function of this module, and any other name ends the reading.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_parameter_lists"]

MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError)  # what wrong contents raise
TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}


class _List:
    """Stands for a ``ParameterList``; unpickling puts the attributes into it."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.tensors = dict(state["_parameters"])


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    found = torch.from_numpy(storage.copy())[offset:][: math.prod(size)].view(size)
    if found.stride() != tuple(stride):
        raise ValueError(f"a stride of {stride} for a tensor of {size}")
    return found


_NAMES = {
    ("torch.nn.modules.container", "ParameterList"): _List,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("collections", "OrderedDict"): dict,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
} | {("torch", name): code for name, code in TYPES.items()}


class _Reader(pickle.Unpickler):
    """Knows ``_NAMES`` and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, stem: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{stem}/data.pkl")))
        self.archive, self.stem = archive, stem

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a list of parameters")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        _, code, key, _, count = pid
        return np.frombuffer(self.archive.read(f"{self.stem}/data/{key}"), dtype=code, count=count)


def read_parameter_lists(path: Path) -> dict[str, Any] | None:
    """Tensors by number, "0", "1", ..., of a file that is a ``ParameterList``, or groups of them of a dict that has some.

    Returns:
        None where the file is no such thing, or names anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [description] = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            loaded = _Reader(archive, description.partition("/")[0]).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, OSError, RuntimeError, EOFError, *MALFORMED):
        return None  # the caller says what the file is
    if isinstance(loaded, _List):
        return loaded.tensors
    if not isinstance(loaded, dict) or not any(isinstance(value, _List) for value in loaded.values()):
        return None
    return {key: value.tensors if isinstance(value, _List) else value for key, value in loaded.items()}
