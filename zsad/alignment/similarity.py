"""Similarity of patches and text, as probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["anomaly_probability", "both", "pooled_with_patches", "surgery_similarity", "text_logits"]


def anomaly_probability(features: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Softmax over (normal, anomalous) of cosine / temperature, the anomalous half.

    Args:
        features: (B, ..., D), of any length.
        text: (1 or B, 2, D), row 0 normal, row 1 anomalous, of any length.
        temperature: 0.07 in WinCLIP and AnomalyCLIP, 0.01 in APRIL-GAN and AdaCLIP.

    Returns:
        (B, ...) in [0, 1], higher is more anomalous.
    """
    rows = features.flatten(1, -2) if features.dim() > 2 else features[:, None]  # (B, N, D)
    cosine = F.normalize(rows, dim=-1) @ F.normalize(text, dim=-1).transpose(1, 2)  # (B, N, 2)
    return (cosine / temperature).softmax(dim=-1)[..., 1].reshape(features.shape[:-1])


def both(margins: Tensor) -> Tensor:
    """Anomalous logit less normal logit (B, H, W) -> probabilities of both, normal first, (B, 2, H, W)."""
    return torch.stack([-margins, margins], dim=1).sigmoid()


def pooled_with_patches(image: Tensor, patches: Tensor, weights: Tensor, share: float = 0.5) -> Tensor:
    """An image feature that its suspicious patches have a share in (Crane's score-based pooling).

    Args:
        image: (B, D), of any length.
        patches: (B, L, D).
        weights: (B, L), of any sum: the pooled vector is normalised before it is mixed.
        share: of the patches.

    Returns:
        (B, D) of length one.
    """
    pooled = (weights[..., None] * patches).sum(dim=1)
    return F.normalize(share * F.normalize(pooled, dim=-1) + (1 - share) * F.normalize(image, dim=-1), dim=-1)


def text_logits(features: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Products of directions and text by temperature, (B, ..., D) -> (B, ..., 2), normal first.

    Args:
        features: of any length.
        text: (1 or B, 2, D), row 0 normal, row 1 anomalous; used at the length that it has, unlike in ``anomaly_probability``.
        temperature: of the logits.
    """
    rows = (F.normalize(features, dim=-1) / temperature).reshape(features.shape[0], -1, features.shape[-1])  # (B, N, D)
    return (rows @ text.transpose(1, 2)).reshape(*features.shape[:-1], 2)


def surgery_similarity(patches: Tensor, cls: Tensor, text: Tensor) -> Tensor:
    """What patches have in common with anomalous text and not with normal text (feature surgery, in CLIP-AD's form).

    Each class's cosine is weighted by twice the probability (of raw cosines) that the picture is of it, and the mean over both
    classes is taken off: (w_1 cos_1 - w_0 cos_0) / 2. That of normal text is the same with the other sign.

    Args:
        patches: (B, L, D), of any length.
        cls: (B, D), the class token of the same layer, of any length.
        text: (1 or B, 2, D), row 0 normal, row 1 anomalous; used at the length that it has.

    Returns:
        (B, L), higher is more anomalous.
    """
    columns = text.transpose(1, 2)  # (1 or B, D, 2)
    weight = 2 * (F.normalize(cls, dim=-1)[:, None] @ columns).softmax(dim=-1)  # (B, 1, 2)
    normal, anomalous = (weight * (F.normalize(patches, dim=-1) @ columns)).unbind(dim=-1)
    return (anomalous - normal) / 2
