"""The trained part of the embedded default: a small head that ends in a sentence encoder's space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.alignment.losses import dice, focal, top_mean
from zsad.alignment.maps import upsample
from zsad.detector import Detector
from zsad.methods.compact.novelty import compare_within
from zsad.types import Context, Tap

__all__ = ["CHANNELS", "COVERED", "DIM", "SIDES", "TOP", "CompactHead", "Compared"]

CHANNELS = {2: 40, 3: 80, 4: 112, 5: 192, 6: 320}  # of the tower's stages
SIDES = {3: 16, 4: 16, 5: 8, 6: 8}  # stages that are compared within the picture, and their grids at 256 px
WIDTH, DIM = 96, 384  # of the head, of the sentence encoder
COVERED = 0.12  # part of a cell that a defect has to cover to count in training
TOP = 0.01  # part of the map whose mean is the image score


class Compared(NamedTuple):
    """Inputs of the trained layers."""

    stages: dict[int, Tensor]  # (B, C, h, w), standardised
    residuals: dict[int, Tensor]  # the same shapes
    novel: Tensor  # (B, 4, h, w) on the finest grid, in deviations


class CompactHead(nn.Module):
    """Convolutional head: tower stages and their novelty -> an embedding of each place in the sentence encoder's space."""

    def __init__(self) -> None:
        super().__init__()
        for stage, channels in CHANNELS.items():
            self.register_buffer(f"mean_{stage}", torch.zeros(channels, 1, 1))
            self.register_buffer(f"deviation_{stage}", torch.ones(channels, 1, 1))
        for stage, side in SIDES.items():  # of the novelty at each place of plain textures
            self.register_buffer(f"usual_{stage}", torch.zeros(side, side))
            self.register_buffer(f"spread_{stage}", torch.ones(side, side))
        self.own = nn.ModuleDict({str(stage): nn.Conv2d(channels, WIDTH, 1) for stage, channels in CHANNELS.items()})
        self.whole = nn.ModuleDict({str(stage): nn.Linear(channels, WIDTH, bias=False) for stage, channels in CHANNELS.items()})
        self.residual = nn.ModuleDict({str(stage): nn.Conv2d(CHANNELS[stage], WIDTH, 1, bias=False) for stage in SIDES})
        self.novel = nn.Conv2d(2 * len(SIDES), WIDTH, 1, bias=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1))
            for _ in range(2)
        )
        self.out = nn.Linear(WIDTH, DIM)
        self.scale = nn.Parameter(torch.tensor(2.3))  # logarithm of 1 / temperature

    def standardised(self, taps: Mapping[int, Tap]) -> dict[int, Tensor]:
        """Raw stages -> (B, C, h, w) of mean 0 and deviation 1 per channel on auxiliary pictures, cut at 6 deviations."""
        found = {}
        for stage in CHANNELS:
            x = taps[stage].patches.transpose(1, 2).unflatten(2, taps[stage].grid)
            found[stage] = ((x - self.get_buffer(f"mean_{stage}")) / self.get_buffer(f"deviation_{stage}")).clamp(-6, 6)
        return found

    def novelty(self, stage: int, raw: Tensor) -> Tensor:
        """(B, h, w) novelty -> its distance from the mean at the same place of plain textures, in deviations."""
        usual, spread = (self.get_buffer(f"{name}_{stage}")[None] for name in ("usual", "spread"))
        if usual.shape[1:] != raw.shape[1:]:
            usual, spread = (upsample(one, (raw.shape[1], raw.shape[2])) for one in (usual, spread))
        return (raw - usual) / spread

    def compare(self, taps: Mapping[int, Tap]) -> Compared:
        """The features without learned weights: standardised stages, their residuals, and novelty."""
        x = self.standardised(taps)
        within = {stage: compare_within(x[stage]) for stage in SIDES}
        size = taps[min(CHANNELS)].grid
        novel = [upsample(self.novelty(stage, raw), size) for stage, (raw, _) in within.items()]
        return Compared(x, {stage: residual for stage, (_, residual) in within.items()}, torch.stack(novel, 1))

    def forward(self, seen: Compared) -> Tensor:
        """-> (B, WIDTH, h, w) on the finest grid; ``similarity`` reads it."""
        size, parts = seen.novel.shape[-2:], dict[torch.Size, Tensor]()
        for stage, x in seen.stages.items():  # summed per grid, so that few maps are enlarged
            part = self.own[str(stage)](x) + self.whole[str(stage)](x.mean((2, 3)))[..., None, None]
            if stage in seen.residuals:
                part = part + self.residual[str(stage)](seen.residuals[stage])
            parts[x.shape[-2:]] = parts[x.shape[-2:]] + part if x.shape[-2:] in parts else part
        mixed: Tensor = self.novel(torch.cat((seen.novel, seen.novel - seen.novel.mean((2, 3), keepdim=True)), 1))
        for part in parts.values():
            mixed = mixed + (part if part.shape[-2:] == size else F.interpolate(part, size=size, mode="bilinear"))
        mixed = F.gelu(self.norm(mixed.movedim(1, -1)).movedim(-1, 1))
        for block in self.blocks:
            mixed = mixed + block(mixed)
        return mixed

    def similarity(self, mixed: Tensor, vectors: Tensor) -> Tensor:
        """(B, WIDTH, h, w) and N vectors (N, 384) of length one -> cosines (B, N, h, w).

        The cosine of ``out(mixed)`` with each vector, without writing the 384 channels out: the length is a quadratic form.
        """
        weight, bias = self.out.weight, self.out.bias  # (384, WIDTH), (384,)
        rows = mixed.flatten(2)  # (B, WIDTH, L)
        square = (rows * ((weight.T @ weight) @ rows)).sum(1) + 2 * (weight.T @ bias) @ rows + bias @ bias  # (B, L)
        dots = (vectors @ weight) @ rows + (vectors @ bias)[:, None]  # (B, N, L)
        return (dots * square.clamp_min(1e-12).rsqrt()[:, None]).reshape(*dots.shape[:2], *mixed.shape[-2:])

    def zero_shot(self, taps: Mapping[int, Tap], context: Context, weights: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Raw stages -> zero-shot map (B, h, w) on the finest grid, and cosines with the defect words (B, N, h, w).

        Args:
            taps: raw stages 2 to 6.
            context: ``text``, ``extra["words"]`` and, where given words steer, ``extra["steer"]``.
            weights: (6,) of the head's logit, the novelty of each stage, the given words.
            bias: () added.
        """
        seen = self.compare(taps)
        mixed, scale = self(seen), self.scale.exp()
        sides = self.similarity(mixed, Detector.text_of(context)[0]) * scale
        words = self.similarity(mixed, context.extra["words"])
        grid = bias + weights[0] * (sides[:, 1] - sides[:, 0])
        grid = grid + torch.einsum("s,bshw->bhw", weights[1:-1], seen.novel)
        if "steer" in context.extra:
            steer = self.similarity(mixed, context.extra["steer"]) * scale
            grid = grid + weights[-1] * steer.amax(1)
        return grid, words

    def losses(
        self, mixed: Tensor, cells: Tensor | None, labels: Tensor, context: Context, kinds: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Focal and Dice on the cells, cross-entropy of the picture by its highest cells, cross-entropy of the defect's word.

        All are means over pictures; one that a term does not apply to counts as 0 there.

        Args:
            mixed: (B, WIDTH, h, w) the head's output.
            cells: (B, h, w) defective part of each cell; None: not known, and only the picture's term is computed.
            labels: (B,) float, 1 anomalous.
            context: ``text``; ``words`` and their vectors.
            kinds: what each picture's defect is called; of use where it is one of ``context.words``.
        """
        sides = self.similarity(mixed, Detector.text_of(context)[0]) * self.scale.exp()  # (B, 2, h, w)
        top = top_mean(sides[:, 1] - sides[:, 0], TOP)
        found = {"picture": 0.3 * F.binary_cross_entropy_with_logits(top, labels)}
        if cells is None:
            return found
        target, probability = (cells >= COVERED).float(), sides.softmax(1)
        found |= {"focal": 8 * focal(probability, target), "dice": 0.5 * dice(probability[:, 1], target)}
        if kinds:
            found["word"] = 0.5 * self.word_loss(mixed, cells, context, kinds)
        return found

    def word_loss(self, mixed: Tensor, cells: Tensor, context: Context, kinds: Sequence[str]) -> Tensor:
        """Cross-entropy of the right word over the cells that a defect covers twice ``COVERED``, a mean over pictures."""
        known = [context.words.index(kind) if kind in context.words else -1 for kind in kinds]
        word = torch.tensor(known, device=mixed.device)[:, None, None].expand_as(cells)
        inside = ((cells >= 2 * COVERED) & (word >= 0)).to(mixed.dtype)  # (B, h, w)
        logits = self.similarity(mixed, context.extra["words"]) * self.scale.exp()  # (B, N, h, w)
        each = F.cross_entropy(logits, word.clamp_min(0), reduction="none") * inside
        return (each.sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)).mean()
