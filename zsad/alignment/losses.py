"""Losses that several methods train with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    *("dice", "focal", "layer_losses", "likeness_terms", "lookup_losses", "map_terms", "picture_term", "sigmoid_focal"),
    *("top_mean", "zero_loss"),
]

SMOOTH = 1e-5  # of the one-hot target and inside the logarithm, as in the published code
GAMMA = 2.0


def focal(probability: Tensor, target: Tensor, gamma: float = GAMMA, smooth: float = SMOOTH) -> Tensor:
    """Focal loss as APRIL-GAN, AnomalyCLIP, AdaCLIP and their family compute it (Lin et al. 2017, without class weights).

    Args:
        probability: (B, C, H, W), already softmaxed over C.
        target: (B, H, W), the class of each pixel.
        gamma: how much easy pixels count less.
        smooth: the one-hot target is clamped to [smooth / (C - 1), 1 - smooth], and ``smooth`` is added to the probability.

    Returns:
        The mean over all pixels, a scalar.
    """
    classes = probability.shape[1]
    one_hot = F.one_hot(target.long(), classes).movedim(-1, 1).to(probability.dtype)  # (B, C, H, W)
    chosen = (one_hot.clamp(smooth / (classes - 1), 1 - smooth) * probability).sum(1) + smooth  # (B, H, W)
    return (-((1 - chosen) ** gamma) * chosen.log()).mean()


def sigmoid_focal(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = GAMMA) -> Tensor:
    """Focal loss of independent logits (Lin et al. 2017), as torchvision's with the mean over all places.

    Args:
        logits: of any shape.
        target: of the same shape, 0 or 1.
        alpha: weight of ones; zeros have the rest.
        gamma: how much easy places count less.
    """
    chosen = logits.sigmoid() * target + (1 - logits.sigmoid()) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * (1 - chosen) ** gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean()


def dice(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - the mean Dice coefficient of the pictures, the sums over all pixels of each.

    Args:
        probability: (B, ...), in [0, 1].
        target: (B, ...), 0 or 1.
        smooth: added to both halves of the fraction, so that two empty masks agree.
    """
    p, g = probability.flatten(1), target.flatten(1).to(probability.dtype)
    return 1 - ((2 * (p * g).sum(1) + smooth) / (p.sum(1) + g.sum(1) + smooth)).mean()


def map_terms(probability: Tensor, masks: Tensor, *, normal: bool = True, by_row: bool = False) -> dict[str, Tensor]:
    """Losses of anomaly maps that the family of APRIL-GAN, AnomalyCLIP and AdaCLIP trains with.

    Args:
        probability: (B, 2, H, W), softmaxed, row 0 normal, row 1 anomalous.
        masks: (B, H, W), 1 = defect.
        normal: whether the normal half has a Dice loss too (AnomalyCLIP), or the anomalous one alone (APRIL-GAN, Crane).
        by_row: whether each row of pixels has a Dice coefficient of its own (FiLo), or each picture.

    Returns:
        "focal", "dice" and, where it is asked for, "dice normal"; scalars.
    """
    masks = masks.float()
    terms = {"focal": focal(probability, masks)}
    if by_row:
        probability, masks = probability.transpose(1, 2).flatten(0, 1), masks.flatten(0, 1)  # (B * H, 2, W), (B * H, W)
    terms["dice"] = dice(probability[:, 1], masks)
    return terms | {"dice normal": dice(probability[:, 0], 1 - masks)} if normal else terms


def layer_losses(layers: Mapping[int, Tensor], masks: Tensor, *, rows: bool = False) -> dict[str, Tensor]:
    """Focal loss of every layer's map and Dice loss of its anomalous half (APRIL-GAN, CLIP-AD).

    Args:
        layers: probabilities (B, 2, H, W), row 0 normal, row 1 anomalous.
        masks: (B, H, W), 1 = defect.
        rows: Dice takes each row of pixels for a picture, as published code does that lost the axis of pictures.

    Returns:
        "focal <layer>" and "dice <layer>"; scalars.
    """
    losses: dict[str, Tensor] = {}
    for layer, probability in layers.items():
        terms = map_terms(probability, masks, normal=False)
        if rows:
            terms["dice"] = dice(probability[:, 1].flatten(0, 1), masks.flatten(0, 1))
        losses |= {f"{name} {layer}": term for name, term in terms.items()}
    return losses


def likeness_terms(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Losses of two likenesses, to what is normal and to what is not (NAGL).

    Args:
        maps: (B, 2, H, W), normal first; taken for logits.
        masks: (B, H, W), 1 = defect.

    Returns:
        "focal", of both as they are, and "dice", the sum of both behind a softmax; scalars.
    """
    target, soft = torch.stack([1 - masks.float(), masks.float()], dim=1), maps.softmax(dim=1)
    return {
        "focal": sigmoid_focal(maps, target),
        "dice": dice(soft[:, 0], target[:, 0]) + dice(soft[:, 1], target[:, 1]),
    }


def picture_term(scores: Tensor, labels: Tensor, highest: int) -> Tensor:
    """Cross-entropy of pictures by the mean t of their highest patches: the logits are 1 - t and t (NAGL).

    Args:
        scores: of patches, (B, L) in [0, 1].
        labels: (B,), 1 = anomalous.
        highest: how many patches.
    """
    mean = scores.topk(min(highest, scores.shape[1]), dim=1).values.mean(dim=1)
    return F.cross_entropy(torch.stack([1 - mean, mean], dim=1), labels.long())


def top_mean(maps: Tensor, part: float) -> Tensor:
    """(B, ...) -> (B,): the mean of each picture's highest ``part`` of places, at least one place."""
    flat = maps.flatten(1)
    return flat.topk(max(1, round(part * flat.shape[1])), dim=1).values.mean(1)


def lookup_losses(distances: Tensor, masks: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How far normal patches are from what a dictionary of normal ones has for them, and how much farther than anomalous ones.

    Both are means over pictures, summed over the maps (DictAS). A patch whose mask is one half counts for neither side.

    Args:
        distances: (M, B, L) of M maps.
        masks: (B, H, W), 1 = defect; resized to the grid.
        grid: on which the L patches lie.

    Returns:
        Mean distance of normal patches; the mean of what it exceeds that of anomalous patches by, over pictures where it does.
    """
    masks = F.interpolate(masks.float()[:, None], grid, mode="bilinear", align_corners=True).flatten(1)  # (B, L)
    normal, anomalous = (side.float() for side in (masks < 0.5, masks > 0.5))
    near, far = ((distances * side).sum(-1) / side.sum(-1).clamp(min=1) for side in (normal, anomalous))  # (M, B)
    there, both = normal.any(-1), normal.any(-1) & anomalous.any(-1)
    above = ((near - far) * both).clamp(min=0)
    return near.sum() / there.sum().clamp(min=1), (above.sum(1) / (above > 0).sum(1).clamp(min=1)).sum()


def zero_loss(parameters: Iterable[Tensor]) -> Tensor:
    """0, with a gradient of 0 for every parameter that learns: the loss of a step that has nothing to learn from."""
    return 0 * torch.stack([one.sum() for one in parameters if one.requires_grad]).sum()
