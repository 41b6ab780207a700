"""MuSc, batch zero-shot: the unlabelled pictures of a set are compared with each other; no text, no training, no references.

Paper: Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled
Images", ICLR 2024, arXiv 2401.16753. Code: xrli-U/MuSc, commit b76b93d.

Kept: exact GELU on OpenAI's QuickGELU weights, as their factory builds it at 518 px; LayerNorm over a picture's whole block;
zeros beyond the border counted in neighbourhood means; align_corners; no smoothing; int(0.3 * (N - 1)) lowest distances (here
at least one). RsCIN's scores are relative to the set, 0 to 1; ``rscin_k=()`` keeps the map's largest distance.
Dropped: float16 autocast, float64 sums; ``divide_num``, which cuts the set into parts: ``pool`` draws others for each picture.
Ours: stages whose grids differ, references as further pictures to compare with, a warning of what recurs, an estimate.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from zsad.alignment.maps import upsample
from zsad.detector import Detector
from zsad.errors import NeedsSet, UsageError
from zsad.references import mutual_scoring, repeated
from zsad.references.batch_references import BatchWithReferences
from zsad.registry import register
from zsad.types import Backbone, Context, ImageFeatures, Prediction, Recipe, References

__all__ = ["MuSc"]

log = logging.getLogger("zsad")
STAGES = (3, 4, 5)  # of a convolutional tower, between mere edges and whole objects
Features = Sequence[ImageFeatures]
Kept = repeated.PairDistances | None


@register("musc")
class MuSc(Detector):
    """MuSc: the unlabelled pictures of a batch are compared with each other.

    Args:
        backbone: any image encoder.
        radii: sides r of the r x r neighbourhoods, odd.
        taps: layers that are compared; None: 6, 12, 18, 24 of 24 (1-based), alike at other depths; of ``compact`` 3, 4, 5.
        rscin_k: sizes of RsCIN's window; () leaves it out.
        topmin: part of the other pictures, the nearest, whose distances are averaged.
        pool: None compares all pairs of pictures, a number each picture with that many others (an odd one is raised by one).
        seed: of the draw of the others.
        repeated: scores what several pictures share by the pictures that lack it (CoDeGraph, see ``references/repeated.py``).

    Time grows with N^2 or N * ``pool``, memory with R * L * N^2 or R * L * pool^2 bytes; see ``estimate``.
    """

    own_references = True
    recipe = Recipe("ViT-L-14-336.openai", 518, activation="gelu", position_embedding="bicubic", taps=(6, 12, 18, 24))
    needs, smallest_set = ("encode_image",), 5
    map_range = (0.2, 1.0)  # on the embedded tower normal places lie about 0.3 to 0.5, defects from 0.6 on

    def __init__(
        self,
        backbone: Backbone,
        radii: tuple[int, ...] = (1, 3, 5),
        taps: tuple[int, ...] | None = None,
        rscin_k: tuple[int, ...] = (1, 2, 3),
        topmin: float = 0.3,
        pool: int | None = None,
        seed: int = 0,
        repeated: bool = False,
    ) -> None:
        super().__init__(backbone)
        self.radii, self.taps, self.rscin_k = radii, taps, rscin_k
        self.topmin, self.pool, self.seed, self.repeated = topmin, pool, seed, repeated

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are compared."""
        if self.taps or hasattr(self.backbone, "stages"):
            return self.taps or STAGES
        if (depth := getattr(self.backbone, "depth", None)) is None:
            raise UsageError(f"musc does not know how deep {self.backbone.name!r} is. Say which layers to compare: taps=(...).")
        return self.recipe.layers(depth)

    def prepare(self, name: str = "object", references: References | None = None) -> Context:
        """The references' patches, which pictures are compared with too. There is no text, and the name changes nothing."""
        mutual_scoring.check_arguments(self.radii, self.topmin, self.rscin_k, self.pool)
        return Context(banks=self.banks(references))

    def needs_set(self, context: Context) -> bool:
        return True

    def scales_within_set(self, context: Context) -> str:
        return "give rscin_k=()" if self.rscin_k else ""

    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, H, W) -> pooled features and the raw states of ``layers``."""
        return self.backbone.encode_image(images, self.layers)

    def score(self, features: ImageFeatures, context: Context) -> Prediction:
        raise NeedsSet("musc compares pictures with each other. Give the whole set to score_set(), one ImageFeatures each.")

    def score_set(self, features: Sequence[ImageFeatures], context: Context) -> Iterator[Prediction]:
        """One prediction per picture, in the order given. Map: distances (0 to 2); score: its maximum, through RsCIN."""
        own, features, size = len(features), BatchWithReferences(features, context.banks), self.backbone.image_size
        count = len(features)
        mutual_scoring.require_enough(own, count, self.smallest_set, reranked=bool(self.rscin_k))
        seconds, memory = self.estimate(count, features[0])
        log.info("musc compares %d pictures: about %.0f s and %.2f GB.", count, seconds, memory / 1e9)
        image = torch.cat([features[index].image.to(self.device) for index in range(count)])  # (N, D)
        near, far = (grids[:own] for grids in self.distance_grids(features, image, own))
        shared = repeated.noted(near.flatten(1), far.flatten(1))
        scores = torch.cat([upsample(grid[None], size, align_corners=True).amax((1, 2)) for grid in near])
        scores = mutual_scoring.rerank(scores, image[:own], self.rscin_k) if self.rscin_k else scores
        for index, (score, grid) in enumerate(zip(scores, near, strict=True)):
            yield Prediction(score[None], upsample(grid[None], size, align_corners=True), notes=shared.get(index, ()))

    def layer_distances(self, features: Features, order: Sequence[int], layer: int, kept: Kept = None) -> Tensor:
        """Of one layer, (2, N, R, h, w): mean of the lowest distances and their median, per side of neighbourhood."""
        rows, count, grid = partial(self._rows, features, order, layer), len(features), features[0].taps[layer].grid
        found, others = dict[int, Tensor](), dict[int, list[int]]()
        pairs = mutual_scoring.mutual_cosines(rows, count, mutual_scoring.reach(count, self.pool), others=others)
        for place, cosines in tqdm(pairs, f"layer {layer}", count, unit="picture", leave=False, disable=None):
            found[order[place]] = torch.stack(mutual_scoring.near_and_far(cosines, self.topmin))  # (2, R, L)
            if kept is not None:
                kept.add(order[place], [order[other] for other in others[place]], cosines, grid)
        return torch.stack([found[index] for index in range(count)], 1).unflatten(-1, grid)

    def distance_grids(self, features: Features, image: Tensor, own: int | None = None) -> tuple[Tensor, Tensor]:
        """Means over layers and neighbourhoods on the finest grid, two of (N, h, w): the map, and median distances."""
        count, grids = len(features), [features[0].taps[layer].grid for layer in self.layers]
        drawn = mutual_scoring.reach(count, self.pool) < count // 2
        order = mutual_scoring.seeded_order(image, self.seed) if drawn else range(count)
        finest = max(grids, key=lambda grid: grid[0] * grid[1])
        kept = repeated.PairDistances(finest, len(grids)) if self.repeated else None
        both = [self.layer_distances(features, order, layer, kept).mean(2).flatten(0, 1) for layer in self.layers]
        near, far = torch.stack([upsample(maps, finest) for maps in both]).mean(0).unflatten(0, (2, count))
        return near if kept is None else kept.raised(near, far, self.topmin, own or count), far

    def _rows(self, features: Sequence[ImageFeatures], order: Sequence[int], layer: int, place: int) -> Tensor:
        tap = features[order[place]].taps[layer]
        return mutual_scoring.lnamd(tap.patches.to(self.device), tap.grid, self.radii)[:, 0]  # (R, L, C)

    def estimate(self, count: int, features: ImageFeatures) -> tuple[float, int]:
        """Seconds and bytes that ``count`` pictures like this one will take, features not counted; from a short timed probe."""
        rows = [partial(self._rows, [features], [0], layer) for layer in self.layers]
        reach = mutual_scoring.reach(count, self.pool)
        seconds, memory = zip(*(mutual_scoring.expected_cost(one, count, reach) for one in rows), strict=True)
        return sum(seconds), max(memory) + (4 * count * reach * rows[0](0)[0, :, 0].numel() if self.repeated else 0)
