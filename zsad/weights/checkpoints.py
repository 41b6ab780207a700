"""Files of weights: read without running code, written as safetensors with a header, listed in ``checkpoints/index.toml``."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import tomllib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zsad.common.assets import asset
from zsad.errors import CheckpointMismatch, SourceNotFound, UnknownName, UnsafeCheckpoint, WeightsError
from zsad.weights.common_forms import flattened, no_weights, unwrapped
from zsad.weights.parameter_lists import read_parameter_lists

__all__ = [
    "AuthorsFile",
    "IndexEntry",
    "find_checkpoint",
    "load_index",
    "published",
    "read_header",
    "read_state_dict",
    "sha256_of",
    "write_learned",
]

_HEADER = "zsad"


@dataclass(frozen=True)
class IndexEntry:
    """One row of ``checkpoints/index.toml``."""

    name: str  # "method.tag"
    file: str  # relative to checkpoints/; "" where it is only to be had from its source
    source: str  # where it comes from, for a person
    sha256: str  # "" where unknown
    size: int  # bytes; of the tensors alone where the file's is not known
    licence: str
    trained_on: str
    git_blob: str = ""  # git's own digest of the file, where that is what its source publishes

    @property
    def path(self) -> Path | None:
        """Where the file lies, or None where it is not part of this installation."""
        try:
            return asset(f"checkpoints/{self.file}") if self.file else None
        except WeightsError:
            return None


@dataclass(frozen=True)
class AuthorsFile:
    """Layout of the files that a paper's authors published: how their names become a detector's own.

    Attributes:
        renames: regular expressions, applied to every name in this order; None leaves a name out that one is found in. A name
            that none is found in stays as it is, and a strict load refuses it.
        inside: entries of the file that hold the tensors; where one of them is there, the rest of the file does not count.
            Where none is named, a tensor within an entry is called "entry.name".
        parts: where a checkpoint is several files in one folder: the pattern of each one's name, by the entry that it becomes;
            "": its entries stay as they are. See ``weights/several_files.py``.
    """

    renames: Mapping[str, str | None] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)

    def own_names(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A file's tensors under the detector's names; of those within an entry, ``renames`` sees "entry.name".

        Raises:
            CheckpointMismatch: two names become the same.
        """
        parts = [state[entry] for entry in self.inside if isinstance(state.get(entry), Mapping)]
        parts = parts or [state if self.inside else flattened(state)]
        found: dict[str, Any] = {}
        for theirs, tensor in ((key, tensor) for part in parts for key, tensor in part.items()):
            if (own := self._renamed(str(theirs))) is None:
                continue
            if own in found:
                raise CheckpointMismatch(f"The file has {own} twice, the second time as {theirs}. Take one of them out.")
            found[own] = tensor
        return found

    def _renamed(self, key: str) -> str | None:
        for pattern, own in self.renames.items():
            if own is not None:
                key = re.sub(pattern, own, key)
            elif re.search(pattern, key):
                return None
        return key


def load_index() -> dict[str, IndexEntry]:
    """The published checkpoints by name."""
    with asset("checkpoints/index.toml").open("rb") as file:
        rows = tomllib.load(file)["checkpoint"]
    return {row["name"]: IndexEntry(**row) for row in rows}


def find_checkpoint(name: str) -> Path:
    """Path of the checkpoint that the index calls ``name`` ("method.tag").

    Raises:
        UnknownName: the index has no such row.
        SourceNotFound: it has, but the file does not ship; the message says where to get it.
    """
    index = load_index()
    if name not in index:
        raise UnknownName.among("checkpoint", name, index)
    entry = index[name]
    if entry.path is None:
        raise SourceNotFound(
            f"The checkpoint {name!r} does not ship with zsad ({entry.size / 1e6:.1f} MB, {entry.licence}). Get it from "
            f"{entry.source} and pass its path: create({name.partition('.')[0]!r}, checkpoint='path/to/file')."
        )
    return entry.path


def published(path: str | Path) -> IndexEntry | None:
    """The row of the index whose digest a file has, or None."""
    path = Path(path)
    if not path.is_file():
        return None
    own = sha256_of(path), git_blob_of(path)
    return next((e for e in load_index().values() if e.sha256 == own[0] or e.git_blob == own[1]), None)


def git_blob_of(path: Path) -> str:
    """Hex digest under which git stores a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Reads safetensors, a torch file or a TorchScript archive's weights, never running code from the file.

    Wrappers ("state_dict", "model") and ``module.`` before the names are taken off; see ``unwrapped``. A ``ParameterList`` is
    read too; see ``read_parameter_lists``.

    Raises:
        SourceNotFound: no such file.
        UnsafeCheckpoint: a pickle that would run code.
        CheckpointMismatch: no file of weights.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceNotFound(f"There is no file of weights at {str(path)!r}. Check the path.")
    if _is_safetensors(path):
        return unwrapped(_read_safetensors(path)[0])
    if what := no_weights(path):
        raise CheckpointMismatch(f"{path.name} {what}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch on old pickle protocols and on TorchScript's age
            loaded = _load(path)
    except pickle.UnpicklingError as error:
        if (lists := read_parameter_lists(path)) is not None:
            return lists
        raise UnsafeCheckpoint(
            f"{path.name} is a pickle with more than tensors in it, and loading it could run code, so it was not loaded. "
            "Ask its author for safetensors, or for torch.save of a plain state dict."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, SafetensorError) as error:
        raise CheckpointMismatch(f"{path.name} is no file of weights that can be read: {error}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointMismatch(f"{path.name} holds a {type(loaded).__name__}; a state dict (name -> tensor) is needed.")
    return unwrapped(loaded)


def _load(path: Path) -> Any:
    """A torch file by the restricted unpickler; a TorchScript archive by torch's own reader, which knows no Python code."""
    if _is_torchscript(path):
        return torch.jit.load(str(path), map_location="cpu").state_dict()
    with path.open("rb") as file:  # a file, since torch goes by the ending of a path
        return torch.load(file, map_location="cpu", weights_only=True)


def _is_safetensors(path: Path) -> bool:
    """safetensors starts with the length of its JSON header (8 bytes, little endian) and the header's brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _is_torchscript(path: Path) -> bool:
    """OpenAI's CLIP files are TorchScript archives; a plain torch file has no code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def read_header(path: str | Path) -> dict[str, Any]:
    """The header that ``write_learned`` wrote, or {} for any other file. Raises ``CheckpointMismatch`` for a damaged one."""
    path = Path(path)
    if not path.is_file() or not _is_safetensors(path):
        return {}
    try:
        return dict(json.loads(_read_safetensors(path, tensors=False)[1].get(_HEADER, "{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointMismatch(f"The header of {path.name} is damaged: {error}. Copy the file again.") from error


def _read_safetensors(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors (if asked for) and metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys() if tensors else ()
            return {key: file.get_tensor(key) for key in keys}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointMismatch(f"{path.name} is a broken safetensors file: {error}. Copy it again.") from error


def write_learned(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes learned weights as safetensors with a JSON header, aside first and then renamed."""
    path = Path(path)
    aside = path.with_name(path.name + ".partial")
    save_file(
        {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()},
        aside,
        {_HEADER: json.dumps(header, sort_keys=True)},
    )
    aside.replace(path)
