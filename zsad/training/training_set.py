"""The examples of a training run as batches: pictures or their cached features, with labels and masks."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from zsad.training.cache import FeatureCache, stacked
from zsad.training.data import Example, ExampleLoader, load_examples, usable
from zsad.training.draws import Draws, mosaic_of
from zsad.training.run import TrainingRun
from zsad.types import Batch, ImageFeatures, Schedule
from zsad.weights.checkpoints import sha256_of

__all__ = ["TrainingSet"]

log = logging.getLogger("zsad")


class TrainingSet:
    """The examples of a run, read once and then served in batches.

    Args:
        detector: the method that is trained.
        seed: of the synthetic defects.
        value_range: as ``load_image``.
        cache: folder for features; False: none. Without effect where ``encode`` is trained.
        precision: of ``encode``.
        schedule: of the run.

    Attributes:
        examples: those that can be used, in a fixed order.
        kinds: kind of defect of each example, "" where it is normal or unknown.
        hashes: SHA-256 of each picture's file by ``Example.source``.
    """

    def __init__(
        self,
        detector: Detector,
        seed: int,
        value_range: tuple[float, float] | None,
        cache: str | Path | bool,
        precision: str,
        schedule: Schedule,
    ) -> None:
        self.detector, self.seed, self.schedule = detector, seed, schedule
        self.loader = ExampleLoader(detector.backbone, seed, value_range)
        cached = detector.cacheable and cache is not False and not schedule.mosaic  # a mosaic is another picture every time
        self.cache = FeatureCache(Path(str(cache)), detector, precision) if cached else None
        self.examples: list[Example] = []
        self.kinds: list[str] = []  # by example
        self.keys: list[str] = []  # of the cache, by example
        self.masks: dict[int, bytes] = {}  # packed bits of the masks that are not empty, where features are cached
        self.hashes: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def read(self, examples: Sequence[Example], rows: list[dict[str, str]], accelerator: Any, run: TrainingRun) -> None:
        """Reads every picture once, in the main process; those that cannot be used become rows of ``errors.jsonl``.

        Raises:
            UsageError: no anomalous picture can be used, or the disk has no room for the features.
        """
        if accelerator.is_main_process:
            examples = usable(examples, self.schedule, self.detector.name, rows)
            self._read_all(examples, rows, accelerator)
            run.write_errors(rows)
            self._check_labels(rows, run, synthetic=any(one.defect for one in examples))
        state: list[Any] = [[self.examples, self.kinds, self.keys, self.masks, self.hashes]]
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(state)
        self.examples, self.kinds, self.keys, self.masks, self.hashes = state[0]
        self.draws = Draws(self.examples, self.kinds, self.seed)

    def _read_all(self, examples: Sequence[Example], rows: list[dict[str, str]], accelerator: Any) -> None:
        """Fills the attributes and the cache."""
        bar, vanished = tqdm(examples, desc="reading pictures", disable=None), 0
        for example, image, mask, kind in load_examples(bar, self.loader, rows):
            vanished += example.label == 1 and mask is not None and not mask.any()
            if self.cache is not None:
                self.keys.append(self._cached(image, accelerator, len(examples)))
                if mask is not None and mask.any():
                    self.masks[len(self.examples)] = np.packbits(mask.numpy().astype(bool)).tobytes()
            self.examples.append(example)
            self.kinds.append(kind)
            if example.source not in self.hashes:
                self.hashes[example.source] = sha256_of(example.sample.path)
        if vanished:
            size, bad = int(self.detector.backbone.image_size), sum(one.label for one in self.examples)
            message = "Defects too small to be seen at %d pixels, so that their masks are empty there: %d of %d"
            log.warning(message, size, vanished, bad)

    def _cached(self, image: Tensor, accelerator: Any, total: int) -> str:
        """Encodes a picture unless it is cached; returns its key. The first file's size tells whether all fit on the disk."""
        assert self.cache is not None
        key = self.cache.key(image)
        if self.cache.has(key):
            return key
        with torch.no_grad(), accelerator.autocast():
            size = self.cache.write(key, self.detector.encode_for_loss(image[None].to(accelerator.device)))
        if not self.keys:
            free = shutil.disk_usage(self.cache.folder).free
            log.info("features of %d pictures: %.2f GB in %s", total, total * size / 1e9, self.cache.folder)
            if (total - 1) * size > free:
                raise UsageError(
                    f"The features of {total} pictures take {total * size / 1e9:.1f} GB, and {self.cache.folder} has "
                    f"{free / 1e9:.1f} GB left. Name a folder with more space (cache=, --cache), or cache nothing (--no-cache)."
                )
        return key

    def _check_labels(self, rows: Sequence[dict[str, str]], run: TrainingRun, synthetic: bool) -> None:
        """Raises where nothing anomalous is left, and warns where normal pictures or masks are missing.

        Args:
            rows: pictures that were left out.
            run: the training run.
            synthetic: whether synthetic defects were asked for.
        """
        left_out = (
            f" {many(len(rows), 'was', 'were')} left out, see {run.out / 'errors.jsonl'}; the first: {rows[0]['error']}"
            if rows
            else ""
        )
        labels = [one.label for one in self.examples]
        if 1 not in labels:
            advice = "" if synthetic else ", or add synthetic defects to the normal pictures: synthetic=1, --synthetic 1"
            raise UsageError(
                f"There is no anomalous picture to train on, among {len(labels)} that can be used.{left_out} Give another data "
                f"set{advice}."
            )
        if 0 not in labels:
            log.warning("There is no normal picture among %d: image scores will learn nothing useful.", len(labels))
        unmasked = sum(not one.masked for one in self.examples)
        if unmasked:
            message = "%d of %d pictures train the image-level loss alone: they have labels and no masks."
            log.warning(message, unmasked, len(labels))
        if rows:
            log.warning("%s left out: %s", many(len(rows), "picture was", "pictures were"), run.out / "errors.jsonl")

    # ------------------------------------------------------------------ steps
    def micro_batches(self, shares: Sequence[tuple[list[int], float]], epoch: int) -> list[tuple[Batch, float]]:
        """Batches on the CPU, each with its share of the step's pictures."""
        return [(self.batch(rows, epoch), weight) for rows, weight in shares]

    def in_order(self) -> Iterator[Batch]:
        """All examples once, in their order, in batches of the schedule's size, with masks or without."""
        for masked in (True, False):
            rows = [row for row, example in enumerate(self.examples) if example.masked is masked]
            for start in range(0, len(rows), self.schedule.batch_size):
                yield self.batch(rows[start : start + self.schedule.batch_size])

    def batch(self, rows: Sequence[int], epoch: int = 0) -> Batch:
        """The examples with some indices, all with masks or all without; from epoch 1 on with what an epoch draws."""
        count = self.schedule.references if epoch else 0
        near = [one for row in rows for one in self.draws.references(row, epoch, count)] if count else []
        chosen = [self.examples[row] for row in rows]
        batch = Batch(*self._pictures(rows, epoch), tuple(one.name for one in chosen), tuple(self.kinds[row] for row in rows))
        if near:
            batch = replace(batch, references=self._pictures(near)[0])
        if epoch and self.schedule.anomalous:
            bad = [one for row in rows for one in self.draws.anomalous(row, epoch, self.schedule.anomalous)]
            images, _, masks = self._pictures(bad)
            batch = replace(batch, anomalous=images, anomalous_masks=masks)
        return batch

    def _pictures(self, rows: Sequence[int], epoch: int = 0) -> tuple[Tensor | ImageFeatures, Tensor, Tensor | None]:
        """Pictures or features, labels, and masks where they are known."""
        labels = [self.examples[row].label for row in rows]
        if self.cache is not None:
            masks = torch.stack([self._mask(row) for row in rows]) if self.examples[rows[0]].masked else None
            return stacked([self.cache.read(self.keys[row]) for row in rows]), torch.tensor(labels), masks
        loaded: list[tuple[Tensor, Tensor | None]] = []
        for place, row in enumerate(rows):
            if cells := self.draws.mosaic(row, epoch, self.schedule.mosaic) if epoch else []:
                rgb, mask = mosaic_of([self.loader.whole(self.examples[cell])[:2] for cell in cells])
                loaded.append((self.detector.backbone.preprocess(rgb), self.loader.sized(mask)))
                labels[place] = int(mask.any())
            else:
                loaded.append(self.loader.load(self.examples[row])[:2])
        known = [mask for _, mask in loaded if mask is not None]
        return torch.stack([image for image, _ in loaded]), torch.tensor(labels), torch.stack(known) if known else None

    def _mask(self, row: int) -> Tensor:
        """Mask (H, W) uint8 of one example, from its packed bits."""
        size = int(self.detector.backbone.image_size)
        if row not in self.masks:
            return torch.zeros(size, size, dtype=torch.uint8)
        bits = np.unpackbits(np.frombuffer(self.masks[row], np.uint8), count=size * size)
        return torch.from_numpy(bits).reshape(size, size)

    # ------------------------------------------------------------------ header of the weights
    def digest(self) -> str:
        """SHA-256 of names, labels and contents of all examples, in their order."""
        facts = zip(self.examples, self.kinds, strict=True)
        lines = [f"{one.source} {one.name} {one.label} {one.masked} {one.defect} {kind}" for one, kind in facts]
        lines += [f"{source} {value}" for source, value in self.hashes.items()]
        lines += [f"{row} {hashlib.sha256(bits).hexdigest()}" for row, bits in self.masks.items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def header(self, sets: Sequence[Dataset], licence: str, before: Mapping[str, Any]) -> dict[str, Any]:
        """Data and licence of the run, for the header of its weights.

        Args:
            sets: the data sets; each gets its name, categories and a hash per picture.
            licence: of the data, as the user stated it.
            before: header of the weights that the run started from; its training data is kept, so that evaluating on that is
                still refused.
        """
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
