"""FiLo: sentences of defects and places that a picture shifts, linear and convolved patches, boxes found by words.

Paper: Gu et al., "FiLo: Zero-Shot Anomaly Detection by Fine-Grained Description and High-Quality Localization", ACM MM 2024,
arXiv 2404.13671. Authors' code: CASIA-IVA-Lab/FiLo (Apache-2.0), read at 36ff29c.

Kept: exact GELU on OpenAI's weights; one norm for both text vectors, so cosines count 70.7 times; the score takes the map's
maximum before boxes weight it; a Dice loss per row of pixels. Quirks with a switch: all local taps and the plain one of layer 6
are one tensor, layers 12 and 18 have the next block's attention (``aliased_taps``; single maps of the reference pictures differ
by up to 0.9); a box that sticks out marks nothing, and between two thirds it is at no place (``faithful``). Dropped: the
language model's lists of defects (``prompts/filo.toml``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.blocks import is_exporting
from zsad.alignment.losses import map_terms
from zsad.alignment.maps import blur_3x3, upsample
from zsad.alignment.multi_scale import PatchDecoders
from zsad.alignment.residual_adapter import ResidualAdapter
from zsad.backbones.clip import CLIP
from zsad.backbones.grounding import box_finder
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.images.boxes import NO_GRAPH, found_in, inside, nowhere, picture_tap
from zsad.prompts.conditional import ConditionalPair
from zsad.prompts.positions import at_places, fine_phrases, places_of
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Batch, Context, ImageFeatures, Phase, Prediction, Recipe, References, Schedule
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["FiLo"]

CONTEXT, OUTSIDE, SIGMA = 12, 0.7, 4.0  # learned tokens; weight of pixels outside all boxes; of the Gaussian
SCALE, TEMPERATURE = 100, 0.07  # of the maps' logits; of the picture's in training


@register("filo")
class FiLo(Detector):
    """FiLo; needs learned weights. With references by the rule of ``references/fusion.py``, which is not the paper's.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: a layer before the local path and those in it, 1-based; None: 6, 12, 18, 24 of 24, and alike at other depths.
        prompts: name of a set in ``prompts/``, or the path of a TOML file; its [details] are the defects of each category.
        boxes: a function of an RGB picture and words, a JSON file, or a Grounding DINO by its folder or name on the hub; None:
            as the authors' program where no box is accepted, so the place is "center" and the map is multiplied by 0.7.
        aliased_taps: score the tensors that the published code's in-place additions leave.
        faithful: boxes by the published rule.
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "gelu", "bicubic", taps=(6, 12, 18, 24), local_start=7)
    needs, learned, not_saved = ("visual", "encode_text", "token_embedding"), True, ("boxes",)
    phases = (Phase(15, {"tokens.": 1e-3, "decoders.": 1e-4}), Phase(5, {"adapter.": 1e-5}))
    schedule = Schedule("adamw", 1e-3, 20, 1, betas=(0.5, 0.999), weight_decay=0.01, phases=phases, mosaic=0.2)
    authors_file = AuthorsFile(
        {
            r"^(clip_model|text_encoder)\.": None,  # the frozen CLIP, its text tower twice
            r"^decoder_cov\.fc_(\d\d)\.(\d)\.": r"decoders.convolved.\2.kernels.\1.",
            r"^decoder_linear\.fc\.": "decoders.linear.",
            r"^abnormal_prompt_learner\.": "tokens.anomalous.",
            r"^normal_prompt_learner\.": "tokens.normal.",
        },
        inside=("filo",),
    )

    def __init__(
        self,
        backbone: CLIP,
        taps: tuple[int, ...] | None = None,
        prompts: str = "filo",
        boxes: Any = None,
        aliased_taps: bool = True,
        faithful: bool = True,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.prompts, self.boxes, self.find = taps, prompts, boxes, box_finder(boxes)
        self.why_not_exported = "" if self.find is nowhere else NO_GRAPH
        self.aliased_taps, self.faithful, self.layers = aliased_taps, faithful, self.tapped(taps)
        self.phase: int | None = None  # of training; None: the losses of both
        (width, dim), text = backbone.visual.proj.shape, backbone.positional_embedding.shape[1]
        self.tokens, self.adapter = ConditionalPair(text, dim, CONTEXT), ResidualAdapter(dim, dim // 2, norm=False)
        self.decoders = PatchDecoders(width, dim, len(self.layers), len(self.layers) - 1)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Sentences, their token ids in ``extra``, words for the boxes; text features depend on the picture."""
        lines = self.tokens.sentences(phrases := fine_phrases(self.prompts, name))
        ids = {kind: self.backbone.tokenize(sentences) for kind, sentences in lines.items()}
        return Context(None, lines | {"boxes": phrases["boxes"]}, banks=self.banks(references), extra=ids)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature (B, D), raw taps of the plain stream and of ``streams["local"]``; pixels for boxes."""
        taps, depth = self.layers[-1:] if self.aliased_taps else self.layers, self.backbone.depth
        after = [layer + 1 for layer in self.layers[1:] if layer < depth] if self.aliased_taps else []
        seen = self.backbone.visual(images, taps, LocalPath(self.recipe.local_layer(depth), value_value), attended=after)
        plain = seen.plain | {layer - 1: tap for layer, tap in seen.attended.items()}
        streams = {"local": seen.local, "pixels": {0: picture_tap(self.backbone.preprocess.pixels(images))}}
        return ImageFeatures(self.backbone.visual.project(seen.cls), plain, streams)

    def text(self, image: Tensor, context: Context, places: list[tuple[int, ...]] | None = None) -> Tensor:
        """Text features (B, 2, D), together of length one, for image features (B, D) and positions of each; None: all."""
        normal, anomalous = context.extra["normal"], context.extra["anomalous"]
        if is_exporting():  # a graph takes any number of pictures at once, all without a box
            text = self.tokens.encode(self.backbone, normal, at_places(anomalous, places_of([])), image)
            return text / text.norm(dim=(1, 2), keepdim=True)
        ids = [anomalous] * len(image) if places is None else [at_places(anomalous, some) for some in places]
        rows = [self.tokens.encode(self.backbone, normal, own, one) for own, one in zip(ids, image, strict=True)]
        return torch.stack([text / text.norm() for text in rows])

    def patches(self, features: ImageFeatures) -> Tensor:
        """The sets of patches that are scored, (M, B, L, D): those of the plain stream, then those of the local one."""
        end = (local := features.streams["local"])[self.layers[-1]]
        plain = [features.taps.get(layer, end).patches for layer in self.layers]
        return self.decoders(plain, [local.get(layer, end).patches for layer in self.layers[1:]], end.grid)

    def maps(self, features: ImageFeatures, text: Tensor) -> Tensor:
        """Probability of "anomalous" of each set of patches, (M, B, H, W); ``text`` is (B, 2, D)."""
        margins = SCALE * (F.normalize(self.patches(features), dim=-1) @ (text[:, 1] - text[:, 0])[..., None])[..., 0]
        grid = features.streams["local"][self.layers[-1]].grid
        pixels = upsample(margins.flatten(0, 1).unflatten(1, grid), self.backbone.image_size, align_corners=True)
        return pixels.sigmoid().unflatten(0, margins.shape[:2])

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: half the anomalous cosine, half the map's maximum. Map: the sets' mean, weaker outside all boxes."""
        image, size = F.normalize(self.adapter(features.image), dim=-1), self.backbone.image_size
        boxes = [] if is_exporting() else found_in(features.streams["pixels"][0], self.find, context.sentences["boxes"])
        text = self.text(image, context, [places_of(some, gaps=self.faithful) for some in boxes])
        maps = blur_3x3(self.maps(features, text).mean(dim=0), SIGMA)
        score = ((image * text[:, 1]).sum(dim=-1) + maps.amax(dim=(1, 2))) / 2
        within = torch.stack([inside(some, size, cut=not self.faithful) for some in boxes or [[]]]).to(maps.device)
        found = Prediction(score, torch.where(within, maps, OUTSIDE * maps))
        return fuse_with_references(found, features.taps, context.banks, align_corners=True)

    def start_phase(self, phase: int) -> None:
        """Phase 0 learns tokens and decoders, with the plain image feature; phase 1 the adapter."""
        self.phase = phase

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Phase 0: focal and both Dice losses of each map, all positions in the text. Phase 1: the picture's cross-entropy."""
        features = self.features_of(batch)
        parts: dict[str, Tensor] = {}
        if self.phase != 1:
            if batch.masks is None:
                raise UsageError("filo learns from masks; got a batch without. Give a mask per picture (all zero: normal).")
            for number, maps in enumerate(self.maps(features, self.text(F.normalize(features.image, dim=-1), context))):
                terms = map_terms(torch.stack([1 - maps, maps], dim=1), batch.masks, by_row=self.faithful)
                parts |= {f"{name} {number}": term for name, term in terms.items()}
        if self.phase != 0:
            image = F.normalize(self.adapter(features.image), dim=-1)
            logits = (self.text(image, context).detach() @ image[..., None])[..., 0] / TEMPERATURE
            parts["picture"] = F.cross_entropy(logits, batch.labels.long())
        return parts
