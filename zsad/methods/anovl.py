"""AnoVL (AnoCLIP): the V-V path of an untrained CLIP and many sentences; adapted to each picture at test time, if wanted.

Paper: Deng et al., "AnoVL: Adapting Vision-Language Models for Unified Zero-shot Anomaly Localization", arXiv 2308.15939.
Authors' code: hq-deng/AnoVL (MIT), read at 3a70bfd.

Kept: no temperature, so maps lie close to 0.5; pictures are resized bilinearly; the image score is a mean over 22 views, which
adaptation does not touch; sentences for textures go by five exact names. ``tiles`` is their program for VisA: two square tiles,
no other views, another adapter, and a loss on joined maps. Mended, theirs with ``faithful=True``: AdamW's moments are kept from
one picture of a category to the next (1e-3 of a map that spans 7e-3), so that the order matters. Dropped: new random weights
for every picture; here weights and noise are drawn from ``seed``, alike for all (another draw moves a map by 1e-3 to 2e-3).
Decisions: tiles lie along the longer side, three or more where it is longer than two squares; they take no references.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.maps import mean_3x3
from zsad.alignment.similarity import text_logits
from zsad.alignment.tiles import cut_tiles, join_grids
from zsad.alignment.token_adapter import TokenAdapter, first_weights
from zsad.alignment.views import views_of
from zsad.backbones.clip import CLIP
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.errors import NeedsSet, UsageError
from zsad.images.preprocessing import ShorterSide, Squash
from zsad.prompts.prompt_set import PromptSet
from zsad.references.fusion import fuse_with_references
from zsad.registry import register
from zsad.types import Context, ImageFeatures, Prediction, Recipe, References, Tap

__all__ = ["AnoVL"]

TEXTURES = ("carpet", "leather", "grid", "tile", "wood")
OWN_NAMES = {"macaroni1": "macaroni", "macaroni2": "macaroni"}
TOGETHER = 8  # views per pass
NO_GRAPH = (
    "its image score is the mean of 22 views, which are made of one picture after the other, and a model takes any number at "
    "once. Run it in torch, or leave the views out: views=False."
)


@register("anovl")
class AnoVL(Detector):
    """AnoVL; 22 passes per picture. With references by the rule of ``references/fusion.py``, which is not the paper's.

    Args:
        backbone: a CLIP ViT with text tower.
        tta: adapt the patches of each picture before they are scored.
        views: False scores the picture alone, in one pass; not published.
        tiles: the authors' program for VisA.
        steps: of the adaptation.
        seed: of its first weights and its noise.
        faithful: keep the optimizer's state from picture to picture, which needs the set.
        prompts: set in ``prompts/``, or path of a TOML file; None: "anovl_texture" for five names, else "anovl_object".
    """

    recipe = Recipe("ViT-B-16-plus-240.laion400m_e32", 240, "gelu", "bicubic_antialias", taps=(12,), local_start=1, depth=12)
    needs, map_range = ("visual", "encode_text"), (0.48, 0.52)
    reference_stream = "local"  # projected patches of the V-V path
    backbone: CLIP

    def __init__(
        self,
        backbone: CLIP,
        tta: bool = False,
        views: bool = True,
        tiles: bool = False,
        steps: int = 5,
        seed: int = 0,
        faithful: bool = False,
        prompts: str | None = None,
    ) -> None:
        super().__init__(backbone)
        self.tta, self.views, self.tiles, self.steps, self.seed = tta, views, tiles, steps, seed
        self.faithful, self.prompts = faithful, prompts
        self.why_not_exported = NO_GRAPH if views and not (tta or tiles) else ""

    def input_rule(self) -> Squash:
        """(H, W, 3) uint8 -> (3, S, S), or with ``tiles`` (3, S, W') or (3, H', S); bilinear."""
        own = self.backbone.preprocess
        return (ShorterSide if self.tiles else Squash)(own.size, own.mean, own.std, "bilinear")

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Text features (1, 2, D); with ``tta`` the sentences' directions, templates outside, as "bank" (M, D)."""
        if self.tiles and references is not None:
            raise UsageError("anovl with tiles=True takes no references. Leave them out, or leave tiles out.")
        chosen = self.prompts or ("anovl_texture" if name in TEXTURES else "anovl_object")
        sentences, count = PromptSet.pair(chosen, OWN_NAMES.get(name, name)), len(PromptSet.load(chosen).templates)
        encoded = [self.backbone.encode_text(lines).unflatten(0, (-1, count)) for lines in sentences.values()]
        text = F.normalize(torch.stack([one.mean(dim=(0, 1)) for one in encoded]), dim=-1)[None]
        bank = F.normalize(torch.cat([one.transpose(0, 1).flatten(0, 1) for one in encoded]), dim=-1)
        extra = {"bank": bank} if self.tta and not self.tiles else {}
        return Context(text, sentences, banks=self.banks(references), extra=extra)

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> streams "local": patches, projected, tile by tile; "views": class features, on a grid of pixels."""
        visual, last, size = self.backbone.visual, self.backbone.depth, (images.shape[-2], images.shape[-1])
        pieces = cut_tiles(images) if self.tiles else images[:, None]  # (B, n, 3, S, S)
        states = visual(pieces.flatten(0, 1), (last,), LocalPath(1, value_value), class_only=True)
        patches = visual.project(states.local[last].patches).unflatten(0, pieces.shape[:2]).flatten(1, 2)  # (B, n * L, D)
        image = cls = visual.project(states.cls).unflatten(0, pieces.shape[:2])  # (B, n, D)
        if self.views and not self.tiles:
            others = [[self.backbone.encode_class(some) for some in views_of(one)[1:].split(TOGETHER)] for one in images]
            cls = torch.cat([cls, torch.stack([torch.cat(parts) for parts in others])], dim=1)
        streams = {"local": {last: Tap(patches, states.local[last].grid)}, "views": {last: Tap(cls, size)}}
        return ImageFeatures(image.mean(dim=1), streams=streams)

    def adapted(self, features: ImageFeatures, context: Context, kept: TokenAdapter | None) -> tuple[Tensor, TokenAdapter]:
        """Patches (1, n * L, D) of one picture as its adapter leaves them, and the adapter; ``kept``: of an earlier one."""
        with self.adapting(features, context) as (own, given):
            (tap,), (views,) = own.streams["local"].values(), own.streams["views"].values()
            bank, size = given.extra.get("bank"), views.grid if self.tiles else None
            adapter = kept or TokenAdapter(self.text_of(given), tap.grid, size, bank)
            drawn = first_weights(tap.patches.shape[-1] if bank is None else len(bank), tap.patches, self.steps, self.seed)
            for _ in adapter.learn(tap.patches, *drawn):
                pass
            return adapter(tap.patches).detach(), adapter

    def needs_set(self, context: Context) -> bool:
        """True with ``tta`` and ``faithful``."""
        return self.tta and self.faithful

    def predict(self, patches: Tensor, features: ImageFeatures, context: Context) -> Prediction:
        """Image score: mean over views or tiles. Map: of (adapted) patches, mean of neighbours, resized; tiles are joined."""
        (tap,), (views,) = features.streams["local"].values(), features.streams["views"].values()
        grids = text_logits(patches, self.text_of(context), 1.0).softmax(dim=-1)[..., 1].unflatten(1, (-1, *tap.grid))
        means = mean_3x3(grids.flatten(0, 1)).view_as(grids)  # (B, n, h, w)
        score = text_logits(views.patches, self.text_of(context), 1.0).softmax(dim=-1)[..., 1].mean(dim=1)
        found = Prediction(score, join_grids(means[:, :, None], views.grid)[:, 0])
        return fuse_with_references(found, features.streams["local"], context.banks, align_corners=True)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """See ``predict``; with ``tta`` each picture is adapted by itself."""
        if self.needs_set(context):
            raise NeedsSet("anovl with tta=True and faithful=True keeps an optimizer from picture to picture: call score_set.")
        patches = features.streams["local"][self.backbone.depth].patches
        if self.tta:
            patches = torch.cat([self.adapted(features[i : i + 1], context, None)[0] for i in range(len(features))])
        return self.predict(patches, features, context)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """With ``tta`` and ``faithful``, one optimizer for all pictures, in their order."""
        adapter = None
        for one in features:
            if self.needs_set(context):
                patches, adapter = self.adapted(one, context, adapter)
            yield self.predict(patches, one, context) if adapter else self.score(one, context)
