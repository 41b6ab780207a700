"""WinCLIP, zero-shot: windows of a CLIP image tower against ensembles of sentences.

Paper: Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023, arXiv 2303.14814,
sections 4.1 (prompts), 4.2 (windows, harmonic aggregation). No official code; equal to the two independent public
implementations that agree with each other (zqhang/Accurate-WinCLIP-pytorch, anomalib's with open_clip 2.24).

Kept: the ensemble is the plain mean of un-normalised sentence vectors; the class token keeps its own position in every
window; the image score is the class token's softmax, never the map's maximum; no smoothing.
Dropped: float64 aggregation (differences below 1e-6).

All windows of both scales and the full image go through the tower as one batch of rows (``backbones/subsets.py``).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.subsets import encode_subsets
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.ops.alignment import anomaly_probability
from zsad.ops.maps import upsample
from zsad.prompting import PromptSet, encode_ensemble
from zsad.registry import register
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap, TextBackbone

__all__ = ["WinCLIP"]


@lru_cache(maxsize=16)
def window_tokens(grid: tuple[int, int], scale: int) -> Tensor:
    """Token indices (class token first) of all ``scale`` x ``scale`` windows, stride 1, row by row: (n, 1 + scale * scale)."""
    patches = torch.arange(1, 1 + grid[0] * grid[1]).view(grid)
    windows = patches.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)
    return F.pad(windows, (1, 0), value=0)


@lru_cache(maxsize=16)
def incidence(grid: tuple[int, int], scale: int) -> Tensor:
    """(n, h * w): 1 / (windows that cover the patch) where the window covers it, else 0; columns sum to 1."""
    windows = window_tokens(grid, scale)[:, 1:] - 1
    covers = torch.zeros(len(windows), grid[0] * grid[1]).scatter_(1, windows, 1.0)
    return covers / covers.sum(dim=0)


@register("winclip")
class WinCLIP(Detector):
    """Zero-shot WinCLIP.

    Args:
        backbone: a CLIP ViT with text tower.
        scales: sides of the windows in patches.
        temperature: of the softmax over (normal, anomalous).
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
    """

    recipe = Recipe(
        "ViT-B-16-plus-240.laion400m_e32", 240, activation="gelu", position_embedding="bicubic_antialias", follows_weights=True
    )
    needs = ("visual", "encode_text")
    backbone: TextBackbone

    def __init__(
        self, backbone: TextBackbone, scales: tuple[int, ...] = (2, 3), temperature: float = 0.07, prompts: str = "winclip"
    ) -> None:
        super().__init__(backbone)
        self.scales, self.temperature, self.prompts = tuple(scales), temperature, prompts

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Encodes the ensemble once; ``context.text`` (1, 2, D) holds the plain means, un-normalised."""
        if references is not None:
            raise UsageError("winclip scores without references; leave them out.")
        if not self.scales or min(self.scales) < 1 or not self.temperature > 0:
            raise UsageError(
                f"scales={self.scales} and temperature={self.temperature}: give scales from 1 on, and a positive one."
            )
        sentences = PromptSet.load(self.prompts).sentences(name)
        if set(sentences) != {"normal", "anomalous"}:
            raise UsageError(f"winclip needs the classes 'normal' and 'anomalous' in {self.prompts}, not {sorted(sentences)}.")
        text = encode_ensemble(self.backbone, [sentences["normal"], sentences["anomalous"]], normalize="none")
        return Context(text=text, sentences=sentences)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image features (B, D) and ``streams["windows"][scale]``, a tap of (B, n, D) per scale."""
        visual = self.backbone.visual  # type: ignore[attr-defined]
        grid = visual.grid(images)
        if min(grid) < max(self.scales):
            raise UsageError(f"Windows of {max(self.scales)} patches do not fit a grid of {grid[0]} x {grid[1]} patches.")
        whole = torch.arange(1 + grid[0] * grid[1])[None]
        image, *windows = encode_subsets(visual, images, [whole, *(window_tokens(grid, scale) for scale in self.scales)])
        taps = {
            scale: Tap(part, (grid[0] - scale + 1, grid[1] - scale + 1))
            for scale, part in zip(self.scales, windows, strict=True)
        }
        return ImageFeatures(image[:, 0], streams={"windows": taps})

    def window_scores(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Probability of "anomalous" per window, (B, n) for each scale."""
        assert context.text is not None
        return {
            scale: anomaly_probability(tap.patches, context.text, self.temperature)
            for scale, tap in features.streams["windows"].items()
        }

    def scale_map(self, scores: Tensor, scale: int, grid: tuple[int, int]) -> Tensor:
        """Harmonic mean over the windows that cover each patch: (B, n) -> (B, h, w)."""
        return 1 / (1 / scores @ incidence(grid, scale).to(scores)).unflatten(1, grid)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability. Map: harmonic mean of the scales and the image score."""
        assert context.text is not None
        image = anomaly_probability(features.image, context.text, self.temperature)  # (B,)
        patches = self.patch_map(image, self.window_scores(features, context), self._grid(features))
        size = (self.backbone.image_size, self.backbone.image_size)
        return Prediction(image, upsample(patches, size))

    def patch_map(self, image: Tensor, windows: dict[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """The map on the patch grid, (B, h, w): one product of all reciprocals with the stacked incidence matrices."""
        covers = torch.cat([incidence(grid, scale) for scale in windows]).to(image)
        reciprocals = torch.cat([1 / scores for scores in windows.values()], dim=1) @ covers + 1 / image[:, None]
        return ((len(windows) + 1) / reciprocals).unflatten(1, grid)

    def _grid(self, features: ImageFeatures) -> tuple[int, int]:
        scale, tap = next(iter(features.streams["windows"].items()))
        return tap.grid[0] + scale - 1, tap.grid[1] + scale - 1
