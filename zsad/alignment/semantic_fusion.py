"""AdaCLIP's hybrid semantic fusion: the clusters of the most anomalous patches enter the image feature.

Cao et al., ECCV 2024, arXiv 2407.15795, section 3; caoyunkang/AdaCLIP.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NO_GRAPH", "cluster_labels", "cluster_mean", "fuse", "semantic_features"]

NO_GRAPH = (
    "its image score draws k-means clusters of the most suspicious patches of every picture, which no graph can "
    "hold. Run it in torch."
)
SHARE = 0.2  # of the clusters in the image feature


def semantic_features(patches: Tensor, suspicion: Tensor, clusters: int, seed: int, published: bool = False) -> Tensor:
    """What the most anomalous patches of each picture have in common.

    The ``5 * clusters`` most suspicious patches are clustered by their features of all layers, side by side.

    Args:
        patches: (B, layers, L, D), of length one.
        suspicion: (B, L), higher is more anomalous.
        clusters: of KMeans.
        seed: of KMeans; every picture starts with it, so that it does not matter in which batch it comes.
        published: draw the first centres in the order of suspicion, as the authors' code does; see ``cluster_labels``.

    Returns:
        (B, D), of length one.
    """
    chosen = suspicion.topk(min(suspicion.shape[1], 5 * clusters), dim=1).indices  # highest first
    fused = []
    for layers, index in zip(patches, chosen, strict=True):
        rows = layers[:, index]  # (layers, M, D)
        labels = cluster_labels(rows.transpose(0, 1).flatten(1), clusters, seed, None if published else index)
        fused.append(cluster_mean(rows, labels))
    return torch.stack(fused)


def fuse(image: Tensor, clusters: Tensor) -> Tensor:
    """The class token's feature with its share of the clusters', (B, D) of length one."""
    return F.normalize(SHARE * clusters + (1 - SHARE) * image, dim=-1)


def cluster_labels(rows: Tensor, clusters: int, seed: int, places: Tensor | None = None) -> Tensor:
    """KMeans whose first centres are a seeded draw (k-means++), in float64. Where rows coincide, some clusters stay empty.

    The authors draw from the rows in the order of suspicion. That order is not stable: noise of 1e-6 on the features exchanges
    two neighbours in 5 % of the pictures, and with them all draws (rounding the suspicion makes it more frequent, not less). In
    the order of their places the rows change only where a patch enters or leaves them.

    Args:
        rows: (M, C).
        clusters: at most so many.
        seed: of the draw.
        places: (M,) the patch of each row, in whose order is drawn; None: in the order of ``rows``, as published.

    Returns:
        (M,) the cluster of each row, in the order of ``rows``.
    """
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    data, count = rows.detach().double().cpu().numpy(), min(clusters, len(rows))
    order = slice(None) if places is None else places.argsort().cpu().numpy()
    centres, _ = kmeans_plusplus(data[order], count, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: a blank picture
        labels = KMeans(count, init=centres, n_init=1).fit_predict(data)
    return torch.as_tensor(labels, dtype=torch.int64, device=rows.device)


def cluster_mean(patches: Tensor, labels: Tensor) -> Tensor:
    """The mean over clusters of each cluster's mean; clusters without a member do not count.

    Args:
        patches: (layers, M, D), features of the chosen patches.
        labels: (M,), the cluster of each patch, the same in every layer.

    Returns:
        (D,), of length one.
    """
    members = F.one_hot(labels.long()).to(patches)  # (M, clusters)
    members = members[:, members.any(dim=0)]
    means = (members / members.sum(dim=0)).T @ patches.mean(dim=0)  # (clusters, D)
    return F.normalize(means.mean(dim=0), dim=-1)
