"""WinCLIP and WinCLIP+: windows of a CLIP image tower against ensembles of sentences and against normal references.

Paper: Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023, arXiv 2303.14814, sections
4.1 (prompts), 4.2 (windows, harmonic aggregation), 4.3 (references: WinCLIP+). No official code; zero-shot it equals the two
independent public implementations that agree with each other (zqhang/Accurate-WinCLIP-pytorch, anomalib's with open_clip
2.24). With references these two differ, and it equals anomalib's: patches are compared behind ``ln_post`` (zqhang: before it),
and the map is the mean of the text's and the references' (zqhang: the sum, which ranks alike).

Kept: the ensemble is the plain mean of un-normalised sentence vectors; the class token keeps its own position in every
window; the text's part of the image score is the class token's softmax, never the map's maximum; no smoothing.
Dropped: float64 aggregation (differences below 1e-6); a distance of zero or, by rounding, below it is ``FLOOR``, where the
published code divides by it.

``focus`` and ``ignore_words`` are LAFT's (Yun et al., ICLR 2025, arXiv 2503.01184): picture, windows and texts are projected to
what the words differ in before their cosines; patches lie in another space and stay as they are.

All windows of both scales and the full image go through the tower as one batch of rows (``backbones/token_subsets.py``).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.alignment.similarity import anomaly_probability
from zsad.alignment.windows import harmonic_map, incidence
from zsad.backbones.clip import CLIP
from zsad.backbones.token_subsets import encode_windows
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.prompts.concepts import ROWS, concept_rows
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.references.memory_bank import nearest_cosine
from zsad.registry import register
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap

__all__ = ["WinCLIP"]

# A distance below this is rounding; the harmonic mean needs a positive one.
FLOOR = 1e-7
COSINES = ("image-text", "window-text", "window-window")


@register("winclip")
class WinCLIP(Detector):
    """WinCLIP: sentences against windows of the picture; with references WinCLIP+.

    Args:
        backbone: a CLIP ViT with text tower.
        scales: sides of the windows in patches.
        temperature: of the softmax over (normal, anomalous).
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
        focus: words for what to look at, as "scratch"; all else counts less.
        ignore_words: words for what not to look at, as "bright lighting".
        components: most directions of each kind of words; None: all.
        projected: cosines that the words change: "image-text", "window-text", "window-window".
    """

    own_references = True
    recipe = Recipe(
        "ViT-B-16-plus-240.laion400m_e32", 240, activation="gelu", position_embedding="bicubic_antialias", follows_weights=True
    )
    needs = ("visual", "encode_text")
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        scales: tuple[int, ...] = (2, 3),
        temperature: float = 0.07,
        prompts: str = "winclip",
        focus: tuple[str, ...] = (),
        ignore_words: tuple[str, ...] = (),
        components: int | None = None,
        projected: tuple[str, ...] = COSINES,
    ) -> None:
        super().__init__(backbone)
        self.scales, self.temperature, self.prompts = scales, temperature, prompts
        self.focus, self.ignore_words, self.components, self.projected = focus, ignore_words, components, projected

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Encodes the ensemble once; ``context.text`` (1, 2, D) holds the plain, un-normalised means."""
        if not self.scales or min(self.scales) < 1 or not self.temperature > 0:
            raise UsageError(
                f"scales={self.scales} and temperature={self.temperature}: give scales from 1 on, and a positive one."
            )
        if unknown := set(self.projected) - set(COSINES):
            raise UsageError(f"projected has {sorted(unknown)}; choose among {', '.join(COSINES)}.")
        sentences = PromptSet.pair(self.prompts, name)
        text = encode_ensemble(self.backbone, [*sentences.values()], normalize="none")
        rows = concept_rows(self.backbone, name, self.focus, self.ignore_words, self.components)
        return Context(text=text, sentences=sentences, banks=self.banks(references), extra=rows)

    def seen(self, rows: Tensor, context: Context, cosine: str) -> Tensor:
        """(..., D) features or text as they enter a cosine: along the directions of the words, where it has some."""
        return rows @ context.extra[ROWS].T if ROWS in context.extra and cosine in self.projected else rows

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> the picture, its windows by scale and its patches; see ``encode_windows``."""
        return encode_windows(self.backbone.visual, images, self.scales)

    def reference_rows(self, features: ImageFeatures) -> dict[str, Tensor]:
        """Windows "window_<scale>" (B, n, D), wherever they lie in the picture, and "patches" (B, L, C)."""
        rows = {f"window_{scale}": tap.patches for scale, tap in features.streams["windows"].items()}
        return rows | {"patches": self._patches(features).patches}

    def window_scores(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Probability of "anomalous" per window, (B, n) for each scale."""
        text = self.seen(self.text_of(context), context, "window-text")
        windows = {scale: self.seen(tap.patches, context, "window-text") for scale, tap in features.streams["windows"].items()}
        return {scale: anomaly_probability(rows, text, self.temperature) for scale, rows in windows.items()}

    def image_score(self, features: ImageFeatures, context: Context) -> Tensor:
        """Probability of "anomalous" of the whole picture, (B,)."""
        image, text = (self.seen(one, context, "image-text") for one in (features.image, self.text_of(context)))
        return anomaly_probability(image, text, self.temperature)

    def reference_scores(self, features: ImageFeatures, context: Context) -> dict[str, Tensor]:
        """Half the cosine distance to the nearest reference row, (B, n) for each key of ``reference_rows``."""
        found = {}
        for key, bank in context.banks.items():
            rows = self.reference_rows(features)[key]
            if key != "patches":  # which lie behind no projection to the texts' space
                rows, kept = (self.seen(one, context, "window-window") for one in (rows, bank.rows))
                bank = replace(bank, rows=kept)
            found[key] = (1 - nearest_cosine(rows, bank)).clamp(min=2 * FLOOR) / 2
        return found

    def reference_map(self, scores: dict[str, Tensor], grid: tuple[int, int]) -> Tensor:
        """Mean of the levels on the patch grid, (B, h, w); windows go to patches by the harmonic mean (section 4.3)."""
        levels = [harmonic_map(scores[f"window_{scale}"], scale, grid) for scale in self.scales]
        return torch.stack([*levels, scores["patches"].unflatten(1, grid)]).mean(dim=0)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability. Map: harmonic mean of the scales and the image score.

        With references: the mean of that score and the reference map's maximum, and the mean of both maps.
        """
        image, grid = self.image_score(features, context), self._patches(features).grid
        patches = self.patch_map(image, self.window_scores(features, context), grid)
        if context.banks:
            distances = self.reference_map(self.reference_scores(features, context), grid)
            image, patches = (image + distances.amax(dim=(1, 2))) / 2, (patches + distances) / 2
        return Prediction(image, upsample(patches, self.backbone.image_size))

    def patch_map(self, image: Tensor, windows: dict[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """The map on the patch grid, (B, h, w): one product of all reciprocals with the stacked incidence matrices."""
        covers = torch.cat([incidence(grid, scale) for scale in windows]).to(image)
        reciprocals = torch.cat([1 / scores for scores in windows.values()], dim=1) @ covers + 1 / image[:, None]
        return ((len(windows) + 1) / reciprocals).unflatten(1, grid)

    def _patches(self, features: ImageFeatures) -> Tap:
        return next(iter(features.streams["patches"].values()))
