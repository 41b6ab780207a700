"""AdaptCLIP: adapters on CLIP's features, on its text, and on what differs from reference images.

Paper: Gao et al., "AdaptCLIP: Adapting CLIP for Universal Visual Anomaly Detection", AAAI 2026, arXiv 2505.09926. Authors'
code: gaobb/AdaptCLIP at 354d9e3 (GPL-2.0); this file was written from a description of what it computes, without its text.

Kept: the image feature is the class token times the projection WITHOUT ``ln_post``; sentences are averaged before they are
normalised; all layers share the heads for references; in training the batch norm of patches counts the class token.
Dropped: distances below zero, which a reference has to itself by rounding (the published harmonic means then divide by sums
that cancel: its map spans -.0016 to .905, and here is 0); the failure of a training step of one picture; references drawn with
replacement. ``context=False`` is a slip behind some published figures (.016 on the map).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from zsad.alignment.attention import value_value
from zsad.alignment.branches import Branch, text_branch
from zsad.alignment.maps import average, smooth
from zsad.alignment.residual_adapter import ResidualAdapter
from zsad.backbones.vit import LocalPath
from zsad.detector import Detector
from zsad.prompts.learned_pair import PromptPair, compare_start_token, flat_pair
from zsad.prompts.prompt_set import PromptSet, encode_ensemble
from zsad.references.prompt_query import PromptQuery, over_layers
from zsad.registry import register
from zsad.types import Backbone, Batch, Context, ImageFeatures, Prediction, Recipe, References, Schedule, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["AdaptCLIP"]

TEMPERATURE = 0.07


@register("adaptclip")
class AdaptCLIP(Detector):
    """AdaptCLIP: learned adapters on features, text and the difference from references; no sentence has the category's name.

    Args:
        backbone: a CLIP ViT with text tower.
        taps: layers that are compared with references, 1-based, the last one also with text; None: 6, 12, 18, 24 of 24.
        local_start: first layer of the V-V path; None is layer 6 of 24. Both are in proportion at other depths.
        tokens: learned ones per sentence.
        reduction: how many times narrower the adapters' bottlenecks are.
        middle: channels of the heads for references.
        context: whether those see the patch beside its difference from the reference.
        fusion: how the branches are averaged.
        sigma: of the Gaussian on the map, in pixels; 0 leaves it out.
    """

    recipe = Recipe("ViT-L-14-336.openai", 518, "quick_gelu", "bilinear", taps=(6, 12, 18, 24), local_start=6)
    reference_stream = "local"  # projected patches, (B, L, D) per tap
    needs = ("visual", "encode_text", "token_embedding")
    learned = own_references = True
    train_mode = ("global_adapter", "local_adapter", "query")
    schedule = Schedule("adam", 1e-3, 15, 8, (0.5, 0.999), one_name=False, labels_only=True, references=1)
    authors_file = AuthorsFile(
        {
            r"^textual_learner\.(token_prefix|token_suffix|tokenized_prompts)_(pos|neg)$": None,  # follow from the tokenizer
            r"^pq_learner\.(local|global)_adapter\.[012]\.": None,  # copies of number 3, which is loaded last
            r"^textual_learner\.ctx_pos$": "prompts.normal",
            r"^textual_learner\.ctx_neg$": "prompts.anomalous",
            r"^visual_learner\.(global|local)_adap?ter\.": r"\1_adapter.",  # theirs is "local_adater"
            r"^pq_learner\.sharebn\.": "query.norms.",
            r"^pq_learner\.(global|local)_adapter\.3\.": r"query.\1_adapter.",
        }
    )

    def __init__(
        self,
        backbone: Backbone,
        taps: tuple[int, ...] | None = None,
        local_start: int | None = None,
        tokens: int = 12,
        reduction: int = 4,
        middle: int = 128,
        context: bool = True,
        fusion: Literal["mean", "harmonic"] = "mean",
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone)
        self.taps, self.local_start, self.tokens, self.reduction = taps, local_start, tokens, reduction
        self.middle, self.context, self.fusion, self.sigma = middle, context, fusion, sigma
        self.layers, dim = self.tapped(taps), self.backbone.visual.proj.shape[1]
        self.prompts = PromptPair(self.backbone.positional_embedding.shape[1], tokens, 1, 0, ("", ""))
        self.global_adapter, self.local_adapter = (ResidualAdapter(dim, dim // reduction, norm=True) for _ in range(2))
        self.query = PromptQuery(dim, middle, len(self.layers), context)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Features (1, 2, D): ``text`` of fixed sentences, ``extra["learned"]`` of learned ones, without gradient; banks."""
        sentences = PromptSet.pair("winclip", "object")
        with torch.no_grad():
            fixed = encode_ensemble(self.backbone, [*sentences.values()], normalize="after")
            learned = self.prompts.encode(self.backbone, half=False)
        return Context(fixed, sentences, banks=self.banks(references), extra={"learned": learned})

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> image feature without ``ln_post``, and ``streams["local"]``: projected tokens (B, L, D) per tap."""
        visual, depth = self.backbone.visual, self.backbone.depth
        path = LocalPath(self.recipe.local_layer(depth, self.local_start), value_value)
        states = visual(images, self.layers, path, class_only=True)
        taps = states.local.items()
        local = {layer: Tap(visual.project(tap.patches), tap.grid, visual.project(tap.cls)) for layer, tap in taps}
        return ImageFeatures(visual.project(states.cls, norm=False), streams={"local": local})

    def branches(self, features: ImageFeatures, fixed: Tensor, learned: Tensor) -> dict[str, Branch]:
        """ "visual": adapted features beside the fixed sentences; "textual": features as they are beside the learned ones."""
        tap = features.streams["local"][max(self.layers)]
        assert tap.cls is not None
        adapted = self.local_adapter(torch.cat([tap.cls[:, None], tap.patches], dim=1))[:, 1:]
        visual = text_branch(self.global_adapter(features.image), adapted, tap.grid, fixed, TEMPERATURE)
        return {"visual": visual, "textual": text_branch(features.image, tap.patches, tap.grid, learned, TEMPERATURE)}

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """Image score and map: averages of the branches; with references, harmonic means with distance and map's maximum."""
        size, banks = self.backbone.image_size, context.banks
        found = self.branches(features, self.text_of(context), context.extra["learned"]).values()
        images, maps = [one.image_probability() for one in found], [one.probability_map(size) for one in found]
        if not banks:
            mean = smooth(average(maps, self.fusion), self.sigma)
            return Prediction(average([*images, mean.amax(dim=(1, 2))], self.fusion), mean)
        rows = {layer: banks[str(layer)].rows[None] for layer in self.layers}
        image, seen, distance = over_layers(self.query.compare(features.streams["local"], rows), size)
        mixed = smooth(average([average([*maps, seen], self.fusion), distance], "harmonic"), self.sigma)
        score = average([average([*images, image], self.fusion), mixed.amax(dim=(1, 2))], "harmonic")
        return Prediction(score, mixed)

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Per branch, and per tap where the batch has references: cross-entropy of the picture, focal and Dice losses."""
        features, learned = self.features_of(batch), self.prompts.encode(self.backbone, half=False)
        found = self.branches(features, self.text_of(context), learned)
        if batch.references is not None:
            taps = self.features_of(replace(batch, images=batch.references)).streams["local"]
            rows = {layer: tap.patches.reshape(len(features), -1, tap.patches.shape[2]) for layer, tap in taps.items()}
            compared = self.query.compare(features.streams["local"], rows)
            found |= {f"query {layer}": one for layer, one in compared.items()}
        parts = {name: one.losses(batch.labels, batch.masks, self.backbone.image_size) for name, one in found.items()}
        return {f"{name} {key}": part for name, terms in parts.items() for key, part in terms.items()}

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """``tokens``, ``reduction`` and ``middle``."""
        keys = ("prompts.normal", "local_adapter.fc.0.weight", "query.local_adapter.0.weight")
        if not set(keys) <= state.keys():
            return {}  # a strict load says what is missing
        (*_, tokens, _), (hidden, channels), (middle, *_) = (state[key].shape for key in keys)
        return {"tokens": tokens, "reduction": channels // hidden, "middle": middle}

    def foreign_state(self, state: dict[str, Any]) -> dict[str, Tensor]:
        """The authors' three groups under own names."""
        compare_start_token(state.get("textual_learner", state), self.backbone)
        return flat_pair(super().foreign_state(state))
