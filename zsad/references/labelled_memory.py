"""A memory of labelled features that is read by attention: normal and anomalous examples of other categories (MRAD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import CheckpointMismatch, UsageError
from zsad.references.mutual_scoring import neighbourhood_means
from zsad.types import Batch, ImageFeatures

__all__ = ["LabelledMemories", "LabelledMemory", "cover", "covered_means", "joined", "neighbour_mean", "whole_keys"]

Labelled: TypeAlias = tuple[Tensor, Tensor]  # keys (N, C), labels (N, 2) one-hot
BLOCK = 16_000_000  # similarities that are in memory at once: 64 MB
NEW = 4  # of either label, so that training, which hides the most similar ones, leaves several
HIDDEN = {"image": 0.95, "patch": 0.8}  # quantile of a query's cosines above which keys are hidden in training
SIDES = (1, 3, 5)  # of the windows of ``neighbour_mean``, in patches


class LabelledMemory(nn.Module):
    """Keys with labels. A query's answer is the mean label of the keys, weighted by ``softmax(query . key)``.

    There is no temperature: cosines lie in [-1, 1], so without projections an answer stays near the share of anomalous keys.
    A new memory has ``NEW`` random keys of each label.

    Args:
        channels: C of the keys and queries.
        width: channels behind the learned projections of queries and keys; 0: there are none.
    """

    keys: Tensor  # (N, C) of length one
    values: Tensor  # (N, 2) one-hot: normal, anomalous

    def __init__(self, channels: int, width: int = 0) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(2 * NEW, channels), dim=-1))
        self.register_buffer("values", torch.eye(2).repeat(NEW, 1))
        self.query = nn.Linear(channels, width) if width else None
        self.key = nn.Linear(channels, width) if width else None

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Replaces what is remembered by keys (N, C) and their labels (N, 2)."""
        own = self.keys
        self.keys, self.values = keys.to(own, copy=True), values.to(own, copy=True)

    def resize(self, stored: Mapping[str, Tensor], prefix: str, origin: str) -> None:
        """As many keys as a file holds under ``prefix``, so that it loads; shapes that cannot fit are left to the strict load.

        Raises:
            CheckpointMismatch: as many labels as keys are needed, each one-hot.
        """
        keys, values = stored.get(f"{prefix}keys"), stored.get(f"{prefix}values")
        if keys is None or values is None or keys.shape[1:] != self.keys.shape[1:] or values.shape[1:] != self.values.shape[1:]:
            return
        one_hot = bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())
        if len(keys) != len(values) or not one_hot:
            raise CheckpointMismatch(
                f"{origin}: the memory {prefix.rstrip('.')!r} has {len(keys)} keys and {len(values)} labels"
                f"{'' if one_hot else ' that are not one-hot'}; each key needs a label, (1, 0) normal or (0, 1) anomalous."
            )
        self.fill(self.keys.new_zeros(keys.shape), self.values.new_zeros(values.shape))

    def project(self, queries: Tensor) -> Tensor:
        """(..., C) -> what is multiplied with the keys, (..., C).

        With projections it is ``key.weight^T query(q)``, so that the keys stay as they are: ``query(q) . key(k)`` differs by
        ``query(q) . key.bias``, which is the same for all keys and which the softmax removes. So ``key.bias`` has no effect and
        learns nothing.
        """
        if self.query is None or self.key is None:
            return queries
        return self.query(queries) @ self.key.weight

    def forward(self, queries: Tensor, quantile: float | None = None) -> Tensor:
        """Probability of "anomalous" of queries of length one.

        Args:
            queries: (B, L, C).
            quantile: in training, keys whose unprojected cosine with a query is above this quantile of the query's cosines are
                hidden from it, so that what comes from the memory's own pictures does not find itself; None: none are.

        Returns:
            (B, L) in [0, 1].
        """
        rows = max(1, BLOCK // len(self.keys))
        parts = [self._read(some, quantile) for some in queries.flatten(0, 1).split(rows)]
        return torch.cat(parts).unflatten(0, queries.shape[:2])

    def _read(self, queries: Tensor, quantile: float | None) -> Tensor:
        similarity = self.project(queries) @ self.keys.T  # (rows, N)
        if quantile is not None:
            cosine = queries @ self.keys.T
            bound = cosine.quantile(quantile, dim=1, keepdim=True)
            similarity = similarity.masked_fill(cosine > bound, -torch.inf)
        return similarity.softmax(dim=1) @ self.values[:, 1]


class LabelledMemories:
    """The part of a method that reads two memories, of whole pictures and of patches. Before ``Detector`` among the bases.

    ``remember`` makes them in one pass over any annotated set: a key per picture, and one each for the patches inside and
    outside its defect. Patches that a mask covers in part are in no key; without a mask an anomalous picture enters the memory
    of pictures alone, a normal one both. Patches are the single layer of ``reference_stream``.
    """

    remembers: ClassVar[bool] = True
    dead = ("image_memory.key.bias", "patch_memory.key.bias")  # the softmax removes them
    reference_stream: ClassVar[str]
    projections: bool  # queries and keys have learned ones
    image_memory: LabelledMemory
    patch_memory: LabelledMemory

    def make_memories(self, pictures: int, patches: int) -> None:
        """Memories of features of so many channels; learned projections have as many as ``pictures``."""
        width = pictures if self.projections else 0
        self.image_memory, self.patch_memory = LabelledMemory(pictures, width), LabelledMemory(patches, width)

    def probabilities(self, features: ImageFeatures, hide: bool = False) -> tuple[Tensor, Tensor]:
        """Probability of "anomalous" of the pictures (B,) and on the grid of patches (B, h, w); ``hide``: as in training."""
        (tap,) = features.streams[self.reference_stream].values()
        image = self.image_memory(F.normalize(features.image[:, None], dim=-1), HIDDEN["image"] if hide else None)
        patches = self.patch_memory(F.normalize(tap.patches, dim=-1), HIDDEN["patch"] if hide else None)
        return image[:, 0], patches.unflatten(1, tap.grid)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Makes the memories of annotated pictures (or their features) in one pass; what they held before is forgotten.

        Raises:
            UsageError: there is no normal or no anomalous key; the memories stay as they were.
        """
        own, images, patches = cast(Any, self), [], []
        with torch.no_grad():
            for batch in batches:
                features = own.features_of(batch)
                (tap,) = features.streams[self.reference_stream].values()
                images.append(whole_keys(features.image, batch.labels))
                patches.append(covered_means(tap.patches, tap.grid, batch.labels, batch.masks))
        whole, parts = joined(images, "picture"), joined(patches, "patch")  # both, before anything changes
        self.image_memory.fill(*whole)
        self.patch_memory.fill(*parts)
        own.header, own.weights_sha256 = {}, ""  # these memories are in no file yet
        own.trained = own.trained or not self.projections

    @classmethod
    def implied_arguments(cls, state: Mapping[str, Any]) -> dict[str, Any]:
        """Whether there are projections."""
        return {"projections": "image_memory.query.weight" in state}

    def load_learned(self, tensors: Mapping[str, Tensor], origin: str = "the given tensors") -> None:
        """Loads strictly, with as many keys as are stored."""
        self.image_memory.resize(tensors, "image_memory.", origin)
        self.patch_memory.resize(tensors, "patch_memory.", origin)
        cast(Any, super()).load_learned(tensors, origin)


def neighbour_mean(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean of each patch's 1 x 1, 3 x 3 and 5 x 5 neighbourhoods, (B, L, C); zeros outside the grid count."""
    return neighbourhood_means(patches.unflatten(1, grid), SIDES).mean(dim=0).flatten(1, 2)


def whole_keys(images: Tensor, labels: Tensor) -> Labelled:
    """A key per picture: its feature (B, C) at length one, with its label (B,), 0 normal, 1 anomalous."""
    return F.normalize(images, dim=-1), F.one_hot(labels.to(images.device).long(), 2).to(images)


def cover(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks (B, H, W), 1 = defect, resized bilinearly to a grid: (B, h, w)."""
    return F.interpolate(masks[:, None], size=grid, mode="bilinear", align_corners=False)[:, 0]


def covered_means(patches: Tensor, grid: tuple[int, int], labels: Tensor, masks: Tensor | None) -> Labelled:
    """Keys of pictures with masks: for each, the mean of the patches inside the defect and the mean of those outside.

    Patches that a mask covers in part (``cover``) belong to neither. A picture without a patch
    wholly inside (or outside) has no anomalous (or normal) key.

    Args:
        patches: (B, L, C).
        grid: (h, w) of the patches.
        labels: (B,) 0 normal, 1 anomalous.
        masks: (B, H, W), 1 = defect; None: they are not known, so anomalous pictures have no key, and normal ones are normal
            everywhere.

    Returns:
        Keys of length one, picture by picture, the anomalous one first, and labels.
    """
    if masks is None:
        patches = patches[labels.to(patches.device) == 0]
        masks = torch.zeros(len(patches), *grid)
    share = cover(masks.to(patches), grid).flatten(1)  # (B, L)
    sides = torch.stack([share == 1, share == 0], dim=1).to(patches)  # (B, 2, L), anomalous first
    counts = sides.sum(dim=2)  # (B, 2)
    keys = F.normalize(sides @ patches / counts.clamp(min=1)[..., None], dim=-1)  # (B, 2, C)
    values = torch.eye(2).flip(0).to(patches).expand(len(patches), 2, 2)
    return keys[counts > 0], values[counts > 0]


def joined(parts: Iterable[Labelled], kind: str) -> Labelled:
    """One memory of several.

    Args:
        parts: keys and labels.
        kind: what a key is made of, "picture" or "patch", for the message.

    Raises:
        UsageError: no key is normal, or none anomalous.
    """
    some = list(parts)
    normal, anomalous = (int(sum(values[:, side].sum() for _, values in some)) for side in (0, 1))
    if not normal or not anomalous:
        rule = " A patch counts where a mask covers all of it, or nothing." if kind == "patch" else ""
        raise UsageError(
            f"A memory needs normal and anomalous examples; the {kind} memory would have {normal} normal and {anomalous} "
            f"anomalous keys.{rule} Give pictures of both kinds, with masks of the defects."
        )
    return torch.cat([keys for keys, _ in some]), torch.cat([values for _, values in some])
