"""A two-layer CLIP, pictures with and without a defect, and one exported folder that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import zsad
from zsad import registry
from zsad.backbones.tiny import load_tiny
from zsad.inference.inspector import Inspector
from zsad.methods.april_gan import AprilGAN
from zsad.verification.tiny_pictures import tiny_pictures

__all__ = ["LEVEL", "PLACE", "SIDE", "exported", "made", "method_in_torch", "pictures", "small_tower", "tower"]

SIDE = 64


def tower(activation: str | None = None) -> Any:
    """The small tower; its positions are resized to ``SIDE``, antialiased."""
    return zsad.load_backbone("tiny2", image_size=SIDE, activation=activation, position_embedding="bicubic_antialias")


@pytest.fixture(scope="module", autouse=True)
def small_tower() -> Iterator[None]:
    """Registers "tiny2" while one file's tests run."""

    def load(name: str, **how: Any) -> Any:
        return load_tiny(name, layers=2, **{key: how.get(key) for key in ("activation", "position_embedding", "image_size")})

    registry._backbones["tiny2"] = lambda name, *, activation=None, position_embedding=None, image_size=None: load(
        name, activation=activation, position_embedding=position_embedding, image_size=image_size
    )
    yield
    registry._backbones.pop("tiny2")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/ and dent/, five pictures each."""
    folder = tmp_path_factory.mktemp("pictures")
    images, _ = tiny_pictures(3, [False] * 5 + [True] * 5)
    for number, rgb in enumerate(images):
        kind = folder / ("good" if number < 5 else "dent")
        kind.mkdir(exist_ok=True)
        Image.fromarray(rgb).save(kind / f"{number}.png")
    return folder


def made(activation: str | None = None) -> Any:
    """APRIL-GAN with seeded first weights on the small tower, marked as trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = AprilGAN(tower(activation), taps=(2,))
    detector.trained = True
    return detector.eval()


def method_in_torch(activation: str | None = None) -> Inspector:
    """What is exported, with thresholds that half of the pictures are above."""
    return Inspector(made(activation), "nut", device="cpu", batch="off", threshold=LEVEL, pixel_threshold=PLACE)


LEVEL, PLACE = 0.2525, 0.9


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path, small_tower: None) -> Path:
    """The folder of what ``made`` gives."""
    out = tmp_path_factory.mktemp("exports") / "model"
    zsad.export(made(), "nut", out=out, pictures=str(pictures), threshold=LEVEL, pixel_threshold=PLACE)
    return out
