"""What a training run reads in every epoch: pictures, or what the frozen towers said of them, with labels and masks."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from zsad.common.file_names import many
from zsad.datasets import Dataset
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.training.cache import FeatureCache, joined
from zsad.training.data import Example, Pictures, checked
from zsad.training.run import TrainingRun
from zsad.types import Batch
from zsad.weights.checkpoints import sha256_of

__all__ = ["Material"]

log = logging.getLogger("zsad")
NO_MASK = "has no mask, or is normal in a category of which no defect has one, and {} learns from masks alone."


class Material:
    """The examples of a run.

    Args:
        detector: to be trained.
        seed: of the synthetic defects.
        value_range: as ``load_image``.
        cache: folder for features; False keeps none. Without effect where ``encode`` learns.
        precision: of ``encode``.

    Attributes:
        examples: what is of use, in a fixed order.
        kinds: what the defect of each example is called, "" where it is normal or that is not known.
        hashes: SHA-256 of each picture's file by ``Example.source``.
    """

    def __init__(
        self,
        detector: Detector,
        seed: int,
        value_range: tuple[float, float] | None,
        cache: str | Path | bool,
        precision: str,
    ) -> None:
        self.detector = detector
        self.pictures = Pictures(detector.backbone, seed, value_range)
        kept = detector.cacheable and cache is not False
        self.cache = FeatureCache(Path(str(cache)), detector, precision) if kept else None
        self.examples: list[Example] = []
        self.kinds: list[str] = []  # by example
        self.keys: list[str] = []  # of the cache, by example
        self.masks: dict[int, bytes] = {}  # packed bits of the masks that are not empty, where pictures are not read again
        self.hashes: dict[str, str] = {}

    def gather(
        self, examples: Sequence[Example], rows: list[dict[str, str]], accelerator: Any, run: TrainingRun, labels_only: bool
    ) -> None:
        """Looks at every picture once, in the main process: what cannot be used becomes a row of ``errors.jsonl``.

        Raises:
            UsageError: nothing is left, or nothing anomalous.
        """
        if accelerator.is_main_process:
            bare = [] if labels_only else [one for one in examples if not one.masked]
            rows += [{"picture": one.source, "error": NO_MASK.format(self.detector.name)} for one in bare]
            self._look_at([one for one in examples if labels_only or one.masked], rows, accelerator)
            run.write_errors(rows)
            self._judge(rows, run, drawn=any(one.defect for one in examples))
        held: list[Any] = [[self.examples, self.kinds, self.keys, self.masks, self.hashes]]
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(held)
        self.examples, self.kinds, self.keys, self.masks, self.hashes = held[0]

    def _look_at(self, examples: Sequence[Example], rows: list[dict[str, str]], accelerator: Any) -> None:
        """Fills the attributes, and the cache."""
        bar, vanished = tqdm(examples, desc="reading pictures", disable=None), 0
        for example, image, mask, kind in checked(bar, self.pictures, rows):
            vanished += example.label == 1 and mask is not None and not mask.any()
            if self.cache is not None:
                self.keys.append(self._keep(image, accelerator, len(examples)))
                if mask is not None and mask.any():
                    self.masks[len(self.examples)] = np.packbits(mask.numpy().astype(bool)).tobytes()
            self.examples.append(example)
            self.kinds.append(kind)
            if example.source not in self.hashes:
                self.hashes[example.source] = sha256_of(example.sample.path)
        if vanished:
            size, bad = int(self.detector.backbone.image_size), sum(one.label for one in self.examples)
            said = "Defects too small to be seen at %d pixels, so that their maps will say normal: %d of %d"
            log.warning(said, size, vanished, bad)

    def _keep(self, image: Tensor, accelerator: Any, total: int) -> str:
        """Encodes a picture unless it is in the cache; returns its key. The first says whether all will find room."""
        assert self.cache is not None
        key = self.cache.key(image)
        if self.cache.has(key):
            return key
        with torch.no_grad(), accelerator.autocast():
            size = self.cache.write(key, self.detector.encode(image[None].to(accelerator.device)))
        if not self.keys:
            free = shutil.disk_usage(self.cache.folder).free
            log.info("features of %d pictures: %.2f GB in %s", total, total * size / 1e9, self.cache.folder)
            if (total - 1) * size > free:
                raise UsageError(
                    f"The features of {total} pictures take {total * size / 1e9:.1f} GB, and {self.cache.folder} has "
                    f"{free / 1e9:.1f} GB left. Name a folder with more room (cache=, --cache), or keep none (--no-cache)."
                )
        return key

    def _judge(self, rows: Sequence[dict[str, str]], run: TrainingRun, drawn: bool) -> None:
        """Raises where training would be pointless, and says what it will be without; ``drawn``: defects were asked for."""
        left_out = (
            f" {many(len(rows), 'was', 'were')} left out, see {run.out / 'errors.jsonl'}; the first: {rows[0]['error']}"
            if rows
            else ""
        )
        labels = [one.label for one in self.examples]
        if 1 not in labels:
            advice = "" if drawn else ", or let defects be drawn on the normal pictures: synthetic=1, --synthetic 1"
            raise UsageError(
                f"There is no anomalous picture to learn from, among {len(labels)} that can be used.{left_out} Give another "
                f"set{advice}."
            )
        if 0 not in labels:
            log.warning("There is no normal picture among %d: scores of pictures will learn nothing of use.", len(labels))
        bare = sum(not one.masked for one in self.examples)
        if bare:
            log.warning("%d of %d pictures train the image term alone: they have labels and no masks.", bare, len(labels))
        if rows:
            log.warning("%s left out: %s", many(len(rows), "picture was", "pictures were"), run.out / "errors.jsonl")

    # ------------------------------------------------------------------ steps
    def pieces(self, shares: Sequence[tuple[list[int], float]]) -> list[tuple[Batch, float]]:
        """Batches on the CPU, with their weights."""
        return [(self.batch(rows), weight) for rows, weight in shares]

    def batch(self, rows: Sequence[int]) -> Batch:
        """The examples of some rows, all with masks or all without."""
        chosen = [self.examples[row] for row in rows]
        labels, names = torch.tensor([one.label for one in chosen]), tuple(one.name for one in chosen)
        kinds = tuple(self.kinds[row] for row in rows)
        if self.cache is not None:
            features = joined([self.cache.read(self.keys[row]) for row in rows])
            masks = torch.stack([self._mask(row) for row in rows]) if chosen[0].masked else None
            return Batch(features, labels, masks, names, kinds)
        loaded = [self.pictures.load(one) for one in chosen]
        known = [mask for _, mask, _ in loaded if mask is not None]
        return Batch(torch.stack([image for image, *_ in loaded]), labels, torch.stack(known) if known else None, names, kinds)

    def _mask(self, row: int) -> Tensor:
        """(H, W) uint8 of one example, from its bits."""
        size = int(self.detector.backbone.image_size)
        if row not in self.masks:
            return torch.zeros(size, size, dtype=torch.uint8)
        bits = np.unpackbits(np.frombuffer(self.masks[row], np.uint8), count=size * size)
        return torch.from_numpy(bits).reshape(size, size)

    # ------------------------------------------------------------------ what the header says
    def digest(self) -> str:
        """Of all that is learned from: names, labels and contents, in their order."""
        facts = zip(self.examples, self.kinds, strict=True)
        lines = [f"{one.source} {one.name} {one.label} {one.masked} {one.defect} {kind}" for one, kind in facts]
        lines += [f"{source} {value}" for source, value in self.hashes.items()]
        lines += [f"{row} {hashlib.sha256(bits).hexdigest()}" for row, bits in self.masks.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def about(self, sets: Sequence[Dataset], licence: str, before: Mapping[str, Any]) -> dict[str, Any]:
        """Names, categories and a hash per picture of every data set, their licence as the user stated it, and what the weights
        had learned from before this run (``before``: their header), so that a judgement on that is still refused."""
        facts: list[dict[str, Any]] = []
        for data in sets:
            own = {f"{data.name}/{data.name_of(sample)}": sample.category for sample in data}
            pictures = {source: value for source, value in self.hashes.items() if source in own}
            used = sorted({own[source] for source in pictures})
            facts.append({"name": data.name, "categories": used, "licence": licence, "pictures": pictures})
        trained_on = "; ".join(f"{one['name']} ({', '.join(one['categories'])})" for one in facts)
        if not before:
            return {"trained_on": trained_on, "licence": licence, "data": facts}
        earlier = {key: before[key] for key in ("trained_on", "licence", "sha256") if before.get(key)}
        trained_on += f"; before that: {earlier.get('trained_on', 'not stated')}"
        held = before.get("data")
        facts += held if isinstance(held, list) else []
        return {"trained_on": trained_on, "licence": licence, "data": facts, "went_on_from": earlier}
