"""MetaUAS: what changed between a picture and one normal picture, by a network that learned from synthetic changes.

Paper: Gao, "MetaUAS: Universal Anomaly Segmentation with One-Prompt Meta-Learning", NeurIPS 2024. Authors' code: gaobb/MetaUAS
(MIT), read at feda9cb; its encoder and decoder are those of efficientnet-pytorch 0.6.3 (Apache-2.0) and of
ragavsachdeva/segmentation_models.pytorch 0092ee4 (MIT).

Kept: floating-point resize with corners aligned and without antialias (another moves the mask by .06 or more); products of the
alignment without a scale; batch norms of the encoder with an eps of 1e-3; no gates in the decoder's last block. A picture that
is its own prompt is not special. Mended, and the authors' with ``faithful=True``: masks are scaled by the lowest and highest
pixel of the set, so that one picture of it always scores 1; the default is the raw mask and its maximum, as in their demo.
Dropped: several prompts and hard alignment, which raise in the published code. No code for training was published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from zsad.backbones.efficientnet import CHANNELS, EfficientNetB4
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.methods.metauas.network import ALIGNED, WIDTHS, Alignment, Decoder
from zsad.references.set_scaling import FaithfulToSet
from zsad.registry import register
from zsad.types import Backbone, Context, ImageFeatures, Prediction, Recipe, References, Tap
from zsad.weights.checkpoints import AuthorsFile

__all__ = ["MetaUAS"]

GATES = r"(decoder\.blocks\.\d)\.attention"


@register("metauas")
class MetaUAS(FaithfulToSet, Detector):
    """MetaUAS: needs exactly one normal picture, no text; the published weights hold the encoder too.

    Args:
        backbone: "pixels", which gives the picture to the network; its size is that of the published weights, 256 or 512.
        faithful: scale masks by the extremes of the set, as the authors' test program does.
    """

    recipe = Recipe("pixels", 256)
    learned, own_references, needs_references, most_references = True, True, 1, 1
    not_saved, learned_comparison = ("faithful",), True
    authors_file = AuthorsFile(
        {
            r"^encoder\.(_conv_head|_bn1)\.": None,  # of the classifier
            r"^encoder\._conv_stem\.": "encoder.stem.",
            r"^encoder\._bn0\.": "encoder.norm0.",
            r"^encoder\._blocks\.(\d+)\._bn(\d)\.": r"encoder.blocks.\1.norm\2.",
            r"^encoder\._blocks\.(\d+)\._(expand|depthwise|project)_conv\.": r"encoder.blocks.\1.\2.",
            r"^encoder\._blocks\.(\d+)\._se_reduce\.": r"encoder.blocks.\1.reduce.",
            r"^encoder\._blocks\.(\d+)\._se_expand\.": r"encoder.blocks.\1.excite.",
            r"^(decoder\.blocks\.\d\.conv\d)\.0\.": r"\1.",
            r"^(decoder\.blocks\.\d)\.conv(\d)\.1\.": r"\1.norm\2.",
            rf"^{GATES}1\.attention\.": r"\1.before.",
            rf"^{GATES}2\.attention\.": r"\1.behind.",
            r"\.cSE\.1\.": ".reduce.",
            r"\.cSE\.3\.": ".excite.",
            r"\.sSE\.0\.": ".place.",
            r"^alignment\.(\d)\.alignment_layer\.dimensionality_reduction\.": r"alignment.\1.reduce.",
        }
    )

    def __init__(self, backbone: Backbone, faithful: bool = False) -> None:
        super().__init__(backbone)
        self.faithful = faithful
        self.encoder, self.decoder = EfficientNetB4(), Decoder()
        self.alignment = nn.ModuleList([Alignment(CHANNELS[level - 1]) for level in ALIGNED])
        self.mask_head = nn.Conv2d(WIDTHS[-1], 1, 1)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """Banks of the prompt's features by level. The name is not used."""
        context = Context(banks=self.banks(references))
        self.one_prompt(context)
        return context

    def one_prompt(self, context: Context) -> None:
        """Raises ``UsageError`` where there are several references."""
        count = max((len(bank.source.unique()) for bank in context.banks.values()), default=0)
        if count > self.most_references:
            raise UsageError(f"metauas compares pictures with exactly one normal picture; got {count}. Give one of them.")

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> five levels of features, (B, L, C) of strides 2 to 32, as layers 1 to 5."""
        levels = self.encoder(images)
        taps = {n: Tap(x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])) for n, x in enumerate(levels, 1)}
        return ImageFeatures(levels[-1].mean(dim=(2, 3)), taps)

    def reference_taps(self, features: ImageFeatures) -> Mapping[int, Tap]:
        """The levels that are aligned."""
        return {level: features.taps[level] for level in ALIGNED}

    def aligned(self, features: ImageFeatures, context: Context) -> dict[int, Tensor]:
        """What the prompt has for each place, (B, L, C) per aligned level."""
        layers = zip(ALIGNED, self.alignment, strict=True)
        return {n: layer(features.taps[n].patches, context.banks[str(n)].rows) for n, layer in layers}

    def decoded(self, features: ImageFeatures, context: Context) -> list[Tensor]:
        """Outputs of the decoder's blocks, the last (B, C, H, W)."""
        beside = self.aligned(features, context)
        joined = {
            n: torch.cat([tap.patches, beside[n]], -1) if n in beside else tap.patches for n, tap in features.taps.items()
        }
        found: list[Tensor] = self.decoder([x.transpose(1, 2).unflatten(2, features.taps[n].grid) for n, x in joined.items()])
        return found

    def anomaly_map(self, features: ImageFeatures, context: Context) -> Tensor:
        """Probability of a change, (B, H, W)."""
        self.require_references(context)
        self.one_prompt(context)
        logits: Tensor = self.mask_head(self.decoded(features, context)[-1])[:, 0]
        return logits.sigmoid()

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        """The mask and its maximum."""
        self.check_alone(context)
        maps = self.anomaly_map(features, context)
        return Prediction(maps.amax(dim=(1, 2)), maps)

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """With ``faithful=True``, two passes over ``features``, one for the lowest and highest pixel of all."""
        if not self.faithful:
            yield from super().score_set(features, context)
            return
        ends = torch.stack([torch.stack(self.anomaly_map(one, context).aminmax()) for one in features])
        low, high = ends[:, 0].min(), ends[:, 1].max()
        for one in features:
            maps = (self.anomaly_map(one, context) - low) / (high - low).clamp(min=1e-12)
            yield Prediction(maps.amax(dim=(1, 2)), maps)
