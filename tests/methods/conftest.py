"""What tests of methods share: the stored outputs of the file's method, and encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import zsad
from zsad.backbones.blocks import TowerShape
from zsad.backbones.clip import CLIP
from zsad.errors import CheckpointMismatch
from zsad.verification.reference import Reference, reference_folder

FIXTURES = {"clip_ad": "clipad"}  # name of the stored outputs, where it is not the method's


def method_of(request: pytest.FixtureRequest) -> str:
    """The method of a file ``test_<method>.py``."""
    return request.path.stem.removeprefix("test_")


@pytest.fixture(scope="module")
def own_proof(request: pytest.FixtureRequest) -> ModuleType:
    """The module that compares the method with its authors' outputs."""
    return import_module(f"zsad.verification.proofs.{method_of(request)}")


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest) -> Reference:
    """The stored outputs."""
    method = method_of(request)
    return Reference(reference_folder(), FIXTURES.get(method, method))


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the files of a tower and of a checkpoint."""
    return tmp_path_factory.mktemp(method_of(request))


@pytest.fixture(scope="module")
def tower(own_proof: Any, reference: Reference, folder: Path) -> Any:
    """The tiny tower of the stored outputs."""
    make = own_proof.tower if hasattr(own_proof, "tower") else own_proof.backbone
    return make(reference, folder)


@pytest.fixture(scope="module")
def stored(reference: Reference, tower: Any, folder: Path) -> tuple[Reference, Any, Path]:
    """What a proof builds the method from."""
    return reference, tower, folder


@pytest.fixture(scope="module")
def detector(own_proof: Any, stored: tuple[Reference, Any, Path]) -> Any:
    """The method of the stored outputs."""
    return own_proof.build(*stored)


@pytest.fixture(scope="module")
def images(own_proof: Any, reference: Reference) -> Tensor:
    """The pictures of the stored outputs."""
    found: Tensor = own_proof.pictures(reference)
    return found


@pytest.fixture
def refuses(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Callable[..., None]]:
    """Of an encoder and a good checkpoint: asserts that it is refused where some tensors are others, or (None) missing."""

    def of(backbone: Any, good: Mapping[str, Any], inside: str = "") -> Callable[..., None]:
        path = tmp_path / "wrong.pth"

        def refused(change: Mapping[str, Any], message: str, **arguments: Any) -> None:
            state = {key: one for key, one in {**good, **change}.items() if one is not None}
            torch.save({inside: state} if inside else state, path)
            with pytest.raises(CheckpointMismatch, match=message):
                zsad.create(method_of(request), backbone=backbone, checkpoint=path, **arguments)

        return refused

    return of


@pytest.fixture
def wide_text() -> CLIP:
    """A small CLIP whose text tower is as wide as that of ViT-L/14, which published prompts are for."""
    shapes = {"vision": TowerShape(64, 2, 1, 64), "text": TowerShape(768, 1, 12, 64)}
    sizes = {"patch_size": 16, "native_size": 80, "dim": 768}
    return CLIP("wide", **shapes, **sizes, activation="quick_gelu").requires_grad_(False)
