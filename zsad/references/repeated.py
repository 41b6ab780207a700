"""Defects that many pictures of a batch share: mutual scoring gives them low scores; they leave each other's pool here.

Paper: Le-Gia and Ahn, "On the Problem of Consistent Anomalies in Zero-Shot Industrial Anomaly Detection" (CoDeGraph), TMLR
2025, arXiv 2510.10456: a patch of a repeated defect is near to few pictures and then, all at once, far from the rest; such
links make a graph of pictures, its communities are found, and what they share is compared with the others alone.
Decisions, since no code could be had: a distance's endurance is its ratio to the patch's median distance, so at most half of
the pictures may bear a defect (and of a pool); a patch counts where its median is an outlier of the set, as in ``recurring``;
communities are Louvain's (networkx, which torch needs too; the paper takes Leiden's), at a resolution that leaves a clique
whole, and count where three or more pictures are densely linked; of these, patches with such links are scored by distances
outside the community. All other patches keep MuSc's score to the last digit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zsad.alignment.maps import upsample

__all__ = ["PairDistances", "communities", "noted", "outlying", "recurring"]

log = logging.getLogger("zsad")
# A place's "far" is its median distance to the other pictures, its "near" the mean of the lowest.
OUTLYING = 3.0  # deviations by which "far" exceeds what is usual in the set
MUCH_NEARER = 0.75  # "near", or one distance, below this part of "far", relative to what is usual in the set
PLACES, PICTURES = 2, 3  # that many places make a picture, that many pictures a finding
LINKS = 8  # of two pictures' patches, both ways counted: as many as a shared square of 2 x 2 patches makes
RESOLUTION = 0.25  # of Louvain's modularity; at 1 a clique falls into parts by the noise of its weights
LOWER = "and score lower for it: a defect that recurs, or a second kind of part"
DENSE = 0.5  # part of the compared pairs of a community that are linked


def outlying(far: Tensor) -> Tensor:
    """Places whose median distance is an outlier among all places of the set: (N, L) -> (N, L) bool."""
    centre = far.median()
    return far > centre + OUTLYING * 1.4826 * (far - centre).abs().median()


def usual_ratio(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
    """``near`` over ``far`` of every place, and what is usual in the set."""
    ratio = near / far.clamp(min=torch.finfo(far.dtype).tiny)
    return ratio, ratio.median()


def recurring(near: Tensor, far: Tensor) -> Tensor:
    """Finds pictures that share something that most of the set lacks: a defect that recurs, or a second kind of part.

    A place counts where it is far from most pictures (its median distance is an outlier among all places of the set) and yet
    much nearer to a minority than places usually are. Mutual scoring gives such places low scores. Not seen: what more than
    half of the pictures bear (then the others look odd), and what hardly differs from the majority. Thresholds were set on
    textures with pasted squares; on ELPV no picture of one kind of cell is found, and where both kinds are mixed the rarer are.

    Args:
        near: (N, L) patch scores.
        far: (N, L) median distances.

    Returns:
        (N,) bool; all False where fewer than ``PICTURES`` pictures would be True.
    """
    ratio, usual = usual_ratio(near, far)
    places = outlying(far) & (ratio < MUCH_NEARER * usual)
    pictures = places.sum(1) >= PLACES
    return pictures & (pictures.sum() >= PICTURES)


def noted(near: Tensor, far: Tensor) -> dict[int, tuple[str, ...]]:
    """A note of each picture that ``recurring`` finds, by its number; they are logged as a warning too."""
    shared = recurring(near, far).nonzero()[:, 0].tolist()
    if shared:
        log.warning("Pictures %s (counted from 0) of %d share what the others lack, %s.", shared, len(near), LOWER)
    return dict.fromkeys(shared, (f"it has something that others have and most lack, {LOWER}",))


class PairDistances:
    """Distances of every patch to each picture that its picture is compared with: means over layers and neighbourhoods.

    In memory: N * n * L numbers of 16 bits, which with a pool of n pictures grows with N.

    Args:
        finest: grid (h, w) that all layers are resized to.
        layers: how many there will be.
    """

    def __init__(self, finest: tuple[int, int], layers: int) -> None:
        self.finest, self.layers = finest, layers
        self.distances: dict[int, Tensor] = {}  # of a picture: (n, L) float16
        self.others: dict[int, list[int]] = {}  # of a picture: the n that it is compared with

    def add(self, index: int, others: Sequence[int], cosines: Tensor, grid: tuple[int, int]) -> None:
        """A picture's largest cosines (n, R, L') with the n ``others``, of one layer on its grid."""
        mean = (2 - 2 * cosines).clamp(min=0).sqrt().mean(1).unflatten(1, grid)  # (n, h', w')
        part = (upsample(mean, self.finest).flatten(1) / self.layers).half().cpu()
        self.distances[index] = self.distances[index] + part if index in self.distances else part
        self.others[index] = list(others)

    def raised(self, near: Tensor, far: Tensor, topmin: float, own: int) -> Tensor:
        """MuSc's patch scores, raised where a patch is like few pictures that share what the others lack.

        Args:
            near: (N, h, w) patch scores.
            far: (N, h, w) median distances.
            topmin: part of the distances, the lowest, that is averaged.
            own: pictures of the batch; those behind them are normal references, likeness to which is no suspicion.
        """
        flat, median = near[:own].flatten(1), far[:own].flatten(1)
        at, (_, usual) = outlying(median), usual_ratio(flat, median)
        links: dict[int, Tensor] = {}  # of a picture with outlying places: (n, L) bool
        for index in at.any(1).nonzero()[:, 0].tolist():
            level = (MUCH_NEARER * usual * median[index]).cpu()
            batch = torch.tensor([other < own for other in self.others[index]])
            links[index] = (self.distances[index].float() < level) & at[index].cpu() & batch[:, None]
        found = communities({index: links[index].sum(1).tolist() for index in links}, self.others)
        raised = near.clone()
        for number, together in enumerate(found):
            log.info("Pictures %s (counted from 0) share what the others lack; group %d.", sorted(together), number + 1)
            for index in together & links.keys():
                inside = torch.tensor([other in together for other in self.others[index]])
                places = links[index][inside].any(0).nonzero()[:, 0]
                rise = _rise(self.distances[index][:, places].float(), inside, topmin)
                raised[index].view(-1)[places.to(near.device)] += rise.to(near)
        return raised


def _rise(distances: Tensor, inside: Tensor, topmin: float) -> Tensor:
    """How much the mean of the lowest part of (n, places) distances rises without those inside a community; at least 0."""
    outside = distances[~inside]
    if not len(outside):
        return torch.zeros(distances.shape[1])

    def lowest(some: Tensor) -> Tensor:
        return some.sort(dim=0).values[: max(1, int(topmin * len(some)))].mean(0)

    return (lowest(outside) - lowest(distances)).clamp(min=0)


def communities(links: Mapping[int, Sequence[int]], others: Mapping[int, Sequence[int]]) -> list[set[int]]:
    """Groups of pictures that many links of patches join, by Louvain's communities of the graph of pictures.

    Args:
        links: of a picture, how many of its patches are linked with each of its ``others``.
        others: of every picture, those that it is compared with.

    Returns:
        Sets of at least ``PICTURES`` pictures, at least ``DENSE`` of whose compared pairs are linked.
    """
    import networkx

    weights: dict[tuple[int, int], int] = {}
    for index, counts in sorted(links.items()):
        for other, count in zip(others[index], counts, strict=True):
            pair = (min(index, other), max(index, other))
            weights[pair] = weights.get(pair, 0) + count
    graph = networkx.Graph()
    graph.add_weighted_edges_from((*pair, weight) for pair, weight in sorted(weights.items()) if weight >= LINKS)
    found = networkx.community.louvain_communities(graph, resolution=RESOLUTION, seed=0) if graph.size() else []
    dense = []
    for together in map(set, found):
        compared = sum(other in together for index in together for other in others[index]) / 2
        if len(together) >= PICTURES and graph.subgraph(together).number_of_edges() >= DENSE * compared:
            dense.append(together)
    return dense
