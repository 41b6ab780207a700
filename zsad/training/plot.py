"""The loss curve of a training run, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

__all__ = ["draw_losses"]

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 36, 50
PALE, STRONG, INK, GRID = (158, 188, 222), (24, 84, 156), (60, 60, 60), (226, 226, 226)


def draw_losses(steps: Sequence[float], ends: Sequence[int]) -> Image.Image:
    """Plots the loss of every step (pale) and the mean of every epoch (strong, at the epoch's middle).

    Args:
        steps: losses in order, at least one.
        ends: number of steps at the end of each epoch.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    ticks = _ticks(min(steps), max(steps))
    low, high = ticks[0], ticks[-1]

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / max(len(steps), 1)
        return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (loss - low) / (high - low)

    for tick in ticks:
        draw.line([place(0, tick), place(len(steps), tick)], GRID)
        draw.text((LEFT - 8, place(0, tick)[1]), f"{tick:.4g}", INK, anchor="rm")
    draw.line([place(step + 0.5, loss) for step, loss in enumerate(steps)], PALE)
    starts = [0, *ends[:-1]]
    spans = [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]
    means = [place((start + end) / 2, sum(steps[start:end]) / (end - start)) for start, end in spans]
    draw.line(means, STRONG, 2)
    shown = max(1, math.ceil(len(means) / 15))
    for number, (x, y) in enumerate(means, 1):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), STRONG)
        if number % shown == 0 or number == len(means):
            draw.text((x, HEIGHT - BOTTOM + 8), str(number), INK, anchor="mt")
    draw.text((LEFT, TOP - 12), "training loss: each step (pale), mean of each epoch (strong)", INK, anchor="lb")
    draw.text((LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 12), "epoch", INK, anchor="mb")
    return image


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that span the range, at least two."""
    width = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-12)
    rough = width / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]
