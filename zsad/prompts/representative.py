"""One vector for many sentences: the direction of their largest cluster (CLIP-AD's representative vectors)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cluster_sentences", "representative_vector"]


def cluster_sentences(encoded: Tensor, eps: float, min_samples: int) -> Tensor:
    """DBSCAN by scikit-learn on sentence vectors (N, D): the cluster of each, (N,) int64; -1 is noise."""
    from sklearn.cluster import DBSCAN

    labels = DBSCAN(eps=eps, min_samples=min_samples).fit_predict(encoded.detach().cpu().numpy())
    return torch.as_tensor(labels, dtype=torch.int64, device=encoded.device)


def representative_vector(encoded: Tensor, eps: float | None, min_samples: int, half: bool) -> Tensor:
    """The direction of the largest cluster's mean (Chen et al., arXiv 2311.00453); of all sentences where all are noise.

    Args:
        encoded: (N, D), sentence vectors of any length.
        eps: largest distance between neighbours in a cluster, of vectors of length one; None: the mean of all, not rounded.
        min_samples: neighbours, itself counted, that make a sentence the core of a cluster.
        half: round the cluster's mean, its length and their quotient to float16, as the authors' code does.

    Returns:
        (D,), of length one; with ``half`` up to the steps of float16.
    """
    encoded = F.normalize(encoded, dim=-1)
    if eps is None:
        return F.normalize(encoded.mean(dim=0), dim=-1)
    labels = cluster_sentences(encoded, eps, min_samples)
    clustered = labels[labels >= 0]
    mean = (encoded[labels == clustered.bincount().argmax()] if len(clustered) else encoded).mean(dim=0)
    if not half:
        return F.normalize(mean, dim=-1)
    mean = mean.half()
    return (mean / mean.norm()).to(encoded.dtype)
