"""A detector without weights, for tests of the code around detectors: a place is as anomalous as it is bright.

The fixture ``registered_methods`` registers the methods ``brightness`` and ``learner`` and the backbone ``grey`` for the file
that imports it, and for no other. Run as a program this is the command line with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from zsad import registry
from zsad.detector import Detector
from zsad.errors import SizeMismatch
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap

SIDE = 32


class BrightnessBackbone(nn.Module):
    """Backbone whose patches are the grey values of the pixels, in one channel."""

    name, image_size, activation, position_embedding, weights_sha256 = "grey", SIDE, "gelu", "bilinear", "0" * 64

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def encode_image(self, images: Tensor, taps: Any = ()) -> ImageFeatures:
        grey = images.mean(1).flatten(1)[..., None] * self.one  # (B, SIDE * SIDE, 1)
        return ImageFeatures(grey.mean(1), {1: Tap(grey, (SIDE, SIDE))})

    def preprocess(self, rgb: np.ndarray[Any, Any]) -> Tensor:
        small = Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BOX)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def load_backbone(name: str, **settings: Any) -> BrightnessBackbone:
    return BrightnessBackbone()


class Brightness(Detector):
    """Detector whose anomaly map is the brightness, and whose score is that of the brightest place.

    Args:
        gain: multiplies the scores.
        untrained: whether it passes for a method that has to be trained first.
        pause: seconds per batch, for tests that stop a run in the middle.
    """

    recipe = Recipe("grey", SIDE)
    word_margin = 0.1

    def __init__(self, backbone: Any, gain: float = 1.0, untrained: bool = False, pause: float = 0.0) -> None:
        super().__init__(backbone)
        self.gain, self.untrained, self.pause = gain, untrained, pause
        self.trained = not untrained

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Context(sentences={"anomalous": (f"a bright {name}",)}, words=("left", "right"))

    def encode(self, images: Tensor) -> ImageFeatures:
        return self.backbone.encode_image(images)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        time.sleep(self.pause)
        tap = features.taps[1]
        maps = tap.patches.reshape(-1, *tap.grid) * self.gain
        side = torch.linspace(1, 0, 8).expand(len(maps), 8, 8)  # "left" leads at the left, "right" at the right
        return Prediction(maps.flatten(1).amax(1), maps, torch.stack([side, 1 - side], 1))


class Learner(Brightness):
    """Brightness with a gain that has to be learned."""

    learned = True

    def __init__(self, backbone: Any, words: tuple[str, ...] = ("left", "right")) -> None:
        super().__init__(backbone, untrained=True)
        self.words, self.factor = words, nn.Parameter(torch.ones(()))

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        return Context(words=self.words)


class Named(Brightness):
    """Has its name without being registered: other processes know it by its module alone."""

    name = "named"


class Failing(Named):
    """Fails in the second category, in whatever process."""

    def prepare(self, name: str = "object", references: Any = None) -> Any:
        if name == "nut":
            raise SizeMismatch("nut", 30, 16)
        return super().prepare(name)


def register_methods() -> None:
    """Registers the two methods and their backbone."""
    registry.register_backbone("grey")(load_backbone)
    registry.register("brightness")(Brightness)
    registry.register("learner")(Learner)


@pytest.fixture(scope="module", autouse=True)
def registered_methods() -> Iterator[None]:
    """Keeps them registered while one file's tests run; the contract tests go over every method that is registered."""
    register_methods()
    yield
    registry._backbones.pop("grey")
    for name in ("brightness", "learner"):
        registry._methods.pop(name)


def picture(
    level: float, spot: tuple[int, int, int, int] | None = None, size: tuple[int, int] = (64, 64), plain: bool = False
) -> Image.Image:
    """A grey picture of (width, height) ``size``; the spot (x0, y0, x1, y1) is white.

    It has a black corner, unless it is ``plain``: a frame of one colour is for review.
    """
    grey = np.full((size[1], size[0], 3), round(255 * level), np.uint8)
    if not plain:
        grey[-2:, -2:] = 0
    if spot:
        grey[spot[1] : spot[3], spot[0] : spot[2]] = 255
    return Image.fromarray(grey)


def folder_of(path: Any, normal: int, defective: int = 0) -> None:
    """Normal pictures 00.png.. of slightly different grey, then defective ones with a white spot."""
    path.mkdir(parents=True, exist_ok=True)
    for index in range(normal + defective):
        spot = (8, 8, 24, 24) if index >= normal else None
        picture(0.3 + 0.004 * (index * 7 % 11), spot).save(path / f"{index:02d}.png")


if __name__ == "__main__":
    register_methods()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from zsad.cli import main

    main()
