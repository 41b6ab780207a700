"""AdaCLIP: static and dynamic prompts in both towers of CLIP; the image score is fused from clusters of suspicious patches.

Paper: Cao et al., "AdaCLIP: Adapting CLIP with Hybrid Learnable Prompts for Zero-Shot Anomaly Detection", ECCV 2024, arXiv
2407.15795, section 3. Code: caoyunkang/AdaCLIP, commit e27ee32.

Kept: exact GELU on OpenAI's QuickGELU weights (their factory rebuilds CLIP from a configuration that does not say it);
prompts rounded to float16 (``half_prompts``); text prompts overwrite the first words of the sentence before blocks 2 to
``depth``, so the first static text prompt is dead; every cluster weighs the same; training fuses too, and its dice losses take
each row of pixels for a picture. Dropped: one picture per batch; NaN where a cluster has no member.
Decision: their KMeans draws from the global generator, here from ``seed`` at every picture: for scores in the order of the
patches' places, which noise does not change (``cluster_labels``), for losses in theirs. By seed, 0.086 is 0.084..0.089.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment import semantic_fusion
from zsad.alignment.losses import focal
from zsad.alignment.maps import smooth, upsample
from zsad.alignment.similarity import both
from zsad.backbones.clip import CLIP
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.prompts import hybrid
from zsad.prompts.prompt_set import PromptSet
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap

__all__ = ["AdaCLIP"]


@register("adaclip")
class AdaCLIP(Detector):
    """AdaCLIP: prompts for both towers, partly made from the picture itself.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers whose patches are scored, 1-based; None: 6, 12, 18, 24 of 24, and alike at other depths.
        depth: how many blocks of each tower are prompted.
        length: tokens of a prompt.
        use_hsf: whether clusters of suspicious patches have a share in the image score.
        k_clusters: how many clusters; five times as many patches are clustered.
        seed: of KMeans.
        sigma: of the map's Gaussian, in pixels of the model's input.
        half_prompts: whether prompts are rounded to float16, as published.
        prompts: name of a set in ``prompts/``, or the path of a TOML file, with classes "normal" and "anomalous".
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, activation="gelu", position_embedding="bicubic", taps=(6, 12, 18, 24))
    learned, cacheable, dead = True, False, ("text_prompts.static.0",)  # the first text block is not prompted
    reference_stream = "patches"  # the projected patches, (B, L, D) per tap
    schedule = Schedule("adamw", 0.01, 5, 1, betas=(0.5, 0.999), weight_decay=0.01, labels_only=True)
    authors_file = hybrid.AUTHORS_FILE
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        taps: tuple[int, ...] | None = None,
        depth: int = 4,
        length: int = 5,
        use_hsf: bool = True,
        k_clusters: int = 20,
        seed: int = 111,
        sigma: float = 4.0,
        half_prompts: bool = True,
        prompts: str = "adaclip",
    ) -> None:
        if not isinstance(backbone, CLIP):
            raise UsageError(f"adaclip puts tokens into both towers of a CLIP ViT, and {backbone.name!r} is none.")
        super().__init__(backbone)
        self.taps, self.depth, self.length = taps, depth, length
        self.use_hsf, self.k_clusters, self.seed = use_hsf, k_clusters, seed
        self.why_not_exported = semantic_fusion.NO_GRAPH if use_hsf else ""
        self.sigma, self.half_prompts, self.prompts = sigma, half_prompts, prompts
        self.layers = self.recipe.layers(backbone.depth, taps)
        (visual, dim), text = backbone.visual.proj.shape, backbone.token_embedding.embedding_dim
        self.text_prompts = hybrid.HybridPrompts(depth, length, dim, text, half_prompts)
        self.visual_prompts = hybrid.HybridPrompts(depth, length, dim, visual, half_prompts)
        self.patch_projection = nn.ModuleList([nn.Linear(visual, dim) for _ in self.layers])
        self.class_projection = nn.Linear(dim, dim)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Sentences, normal first, their tokens (N, T), and states (N, T, C) behind text block 1, the last before prompts."""
        sentences = PromptSet.pair(self.prompts, name.replace("-", " "))
        tokens = hybrid.cut(self.backbone.tokenize([*sentences["normal"], *sentences["anomalous"]]))
        states = hybrid.unprompted_states(self.backbone, tokens)
        return Context(sentences=sentences, banks=self.banks(references), extra={"tokens": tokens, "states": states})

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image (B, D) and ``streams["patches"]``, of length one; dynamic ``streams["text_prompts"][0]``."""
        with torch.no_grad():
            frozen = self.backbone.encode_class(images)  # (B, D)
        prompts = hybrid.Append(self.visual_prompts(self.visual_prompts.draw(frozen)))
        seen = self.backbone.encode_image(images, self.layers, prompts=prompts)
        patches = {
            layer: Tap(F.normalize(project(seen.taps[layer].patches), dim=-1), seen.taps[layer].grid)
            for layer, project in zip(self.layers, self.patch_projection, strict=True)
        }
        text = {0: Tap(self.text_prompts.draw(frozen), (0, 0))}  # (B, length, text width), of no place
        image = F.normalize(self.class_projection(seen.image), dim=-1)
        return ImageFeatures(image, streams={"patches": patches, "text_prompts": text})

    def text_features(self, features: ImageFeatures, context: Context) -> Tensor:
        """Every picture's own ensemble, (B, 2, D), of length one: its dynamic prompts in all sentences."""
        dynamic, normal = features.streams["text_prompts"][0].patches, len(context.sentences["normal"])
        states, ends = context.extra["states"], context.extra["tokens"].argmax(dim=1)
        return hybrid.prompted_ensemble(self.backbone, self.text_prompts, dynamic, states, ends, normal)

    def margins(self, features: ImageFeatures, context: Context, published: bool = False) -> tuple[Tensor, Tensor]:
        """Anomalous logit less normal logit, whose sigmoid is the softmax over both: pictures (B,), patches (B, layers, L)."""
        normal, anomalous = self.text_features(features, context).float().unbind(dim=1)
        contrast, image = 100 * (anomalous - normal), features.image.float()  # (B, D) each
        patches = torch.stack([tap.patches.float() for tap in features.streams["patches"].values()], dim=1)
        places = (patches * contrast[:, None, None]).sum(dim=-1)  # no product, which autocast would round
        if self.use_hsf:
            suspicion, draw = places.mean(dim=1), (self.k_clusters, self.seed, published)
            image = semantic_fusion.fuse(image, semantic_fusion.semantic_features(patches, suspicion, *draw))
        return (image * contrast).sum(dim=-1), places

    def resized(self, margins: Tensor, features: ImageFeatures) -> Tensor:
        """(B, L) -> (B, H, W) at the model's input size."""
        grid = features.streams["patches"][self.layers[0]].grid
        return upsample(margins.unflatten(1, grid), self.backbone.image_size, align_corners=True)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: class token and clusters. Map: mean logits of the layers, resized, softmax, Gaussian."""
        image, places = self.margins(features, context)
        maps = self.resized(places.mean(dim=1), features).sigmoid()  # p1 = (p1 + 1 - p0) / 2
        found = Prediction(image.sigmoid(), smooth(maps, self.sigma).float())
        return fuse_with_references(found, features.streams["patches"], context.banks, align_corners=True)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Focal loss of the image score, ``map_losses`` of the layers."""
        features = self.features_of(batch)
        image, places = self.margins(features, context, published=True)
        losses = {"image": focal(both(image[:, None, None]), batch.labels[:, None, None])}
        maps = [self.resized(margins, features) for margins in places.unbind(dim=1)]
        return losses if batch.masks is None else losses | hybrid.map_losses(maps, batch.masks)

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``depth`` and ``length`` of the authors' prompts; which layers are tapped, no file states."""
        return {key: n for key, n in hybrid.stored_sizes(state).items() if key != "taps"}

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads strictly; where depth, length or the number of taps differ, the error names the keyword."""
        hybrid.compare_sizes(tensors, {"depth": self.depth, "length": self.length, "taps": len(self.layers)}, origin)
        super().load_learned(tensors, origin)
