"""APRIL-GAN (VAND): a learned linear projection per tapped layer against sentences; with references a memory beside it.

Paper: Chen et al., "A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023 VAND Workshop Challenge
Tracks 1&2", arXiv 2305.17382, sections 3.1 (zero-shot), 3.2 (few-shot). Authors' code: ByChelsea/VAND-APRIL-GAN, f13b8a6.

Kept: exact GELU on OpenAI's QuickGELU weights (their factory rebuilds CLIP at other sizes than the native one; at the native
size it does not, so pass a backbone with "quick_gelu" there); layers are summed, so the map lies in 0 to the number of layers;
the Dice loss sees the anomalous half alone. Mended, theirs with ``faithful=True``: with references the image score is half the
text's and half the map's maximum scaled by the lowest and highest of the set, so it depends on the other pictures.
Dropped: float16 autocast; the attention maps that nothing uses. Decision: where all maxima of a set are equal, their half is 0
(the published code divides by zero).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import layer_losses
from zsad.alignment.maps import upsample
from zsad.alignment.similarity import both
from zsad.backbones.clip import CLIP
from zsad.detector import Detector
from zsad.prompts.prompt_set import encoded_pair
from zsad.references.memory_bank import nearest_cosine
from zsad.references.set_scaling import FaithfulToSet
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["AprilGAN"]

TEMPERATURE = 0.01


@register("april_gan")
class AprilGAN(FaithfulToSet, Detector):
    """APRIL-GAN: a learned projection per layer against sentences; with references a memory of patches beside it.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers whose patches are scored and remembered, 1-based; None: 6, 12, 18, 24 of 24, and alike at other depths.
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
        faithful: with references, the authors' image score, whose half is scaled by the set's lowest and highest map.
    """

    own_references = scaled_with_references = True
    recipe = Recipe("ViT-L-14-336.openai", 518, activation="gelu", position_embedding="bicubic_antialias", taps=(6, 12, 18, 24))
    needs = ("visual", "encode_text")
    text_temperature = TEMPERATURE
    learned = True
    schedule = Schedule("adam", 1e-3, 3, 8, betas=(0.5, 0.999))  # on MVTec AD; 15 epochs on VisA
    authors_file = AuthorsFile({r"^fc\.": "projections."}, inside=("trainable_linearlayer",))
    backbone: CLIP

    def __init__(
        self, backbone: CLIP, taps: tuple[int, ...] | None = None, prompts: str = "vand", faithful: bool = False
    ) -> None:
        super().__init__(backbone)
        self.taps, self.prompts, self.faithful = taps, prompts, faithful
        self.layers = self.recipe.layers(backbone.depth, taps)
        self.map_range = (0.0, float(len(self.layers)))
        self.projections = nn.ModuleList([nn.Linear(*backbone.visual.proj.shape) for _ in self.layers])

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D) of length one; banks of raw patches by layer. The name goes into the sentences as it is."""
        return Context(*encoded_pair(self.backbone, self.prompts, name), banks=self.banks(references))

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature (B, D) and the raw patches (B, L, C) of the tapped layers; nothing learned."""
        return self.backbone.encode_image(images, self.layers)

    def margins(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Per layer, the anomalous logit less the normal one, whose sigmoid is the softmax over both: (B, L)."""
        normal, anomalous = self.text_of(context)[0]
        contrast = (anomalous - normal) / TEMPERATURE  # (D,)
        return {
            layer: F.normalize(project(features.taps[layer].patches), dim=-1) @ contrast
            for layer, project in zip(self.layers, self.projections, strict=True)
        }

    def pixels(self, patches: Tensor, layer: int, features: ImageFeatures) -> Tensor:
        """(B, L) on a layer's grid -> (B, H, W) at the model's input size."""
        return upsample(patches.unflatten(1, features.taps[layer].grid), self.backbone.image_size, align_corners=True)

    def layer_margins(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """``margins``, resized before the softmax: (B, H, W) per layer."""
        return {layer: self.pixels(flat, layer, features) for layer, flat in self.margins(features, context).items()}

    def reference_distances(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """Per layer, 1 - cosine with the nearest raw patch of the references, (B, L)."""
        return {layer: 1 - nearest_cosine(features.taps[layer].patches, context.banks[str(layer)]) for layer in self.layers}

    def anomaly_map(self, features: ImageFeatures, context: Context) -> Tensor:
        """Sum of the layers' probabilities and, with references, of their distances: (B, H, W)."""
        maps = [margin.sigmoid() for margin in self.layer_margins(features, context).values()]
        if context.banks:
            distances = self.reference_distances(features, context)
            maps += [self.pixels(flat, layer, features) for layer, flat in distances.items()]
        return torch.stack(maps).sum(dim=0)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: the class token's probability; with references, half of it and half of the map's share of its range."""
        self.check_alone(context)
        image, maps = self.text_score(features, context), self.anomaly_map(features, context)
        if context.banks:  # each layer adds a probability and a distance of 0 to 1 (2 for opposite patches)
            image = (image + maps.amax(dim=(1, 2)) / (2 * len(self.layers))) / 2
        return Prediction(image, maps)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Per layer, focal loss of the map and Dice loss of its anomalous half; pictures or cached features.

        Raises:
            UsageError: pictures without masks.
        """
        margins = self.layer_margins(self.features_of(batch), context)
        return layer_losses({layer: both(one) for layer, one in margins.items()}, self.masks_of(batch))
