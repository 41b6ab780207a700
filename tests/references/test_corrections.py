"""Corrections: a mark acts on what looks like the marked place; the rule against loops, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zsad.alignment.losses import top_mean
from zsad.errors import UsageError
from zsad.references.corrections import FALSE_ALARM, LEAST_REACH, MISS, REACH, corrected, likeness, mark_of
from zsad.types import ImageFeatures, Prediction, Tap

GRID, SIZE, RANGE = (6, 8), (48, 64), (0.0, 1.0)


def features(seed: int, count: int = 1, layers: tuple[int, ...] = (1, 2)) -> ImageFeatures:
    generator = torch.Generator().manual_seed(seed)
    taps = {layer: Tap(torch.randn(count, GRID[0] * GRID[1], 16, generator=generator), GRID) for layer in layers}
    return ImageFeatures(torch.zeros(count, 4), taps)


def prediction(seed: int, count: int = 1) -> Prediction:
    maps = torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    return Prediction(top_mean(maps, 0.01), maps)


def place(rows: slice = slice(8, 32), columns: slice = slice(16, 40)) -> Tensor:
    drawn = torch.zeros(SIZE)
    drawn[rows, columns] = 1
    return drawn


def cells(drawn: Tensor) -> np.ndarray:
    """The grid's cells that are at least half covered, counted one by one."""
    height, width = SIZE[0] // GRID[0], SIZE[1] // GRID[1]
    return np.array(
        [
            [drawn[r * height : (r + 1) * height, c * width : (c + 1) * width].mean() >= 0.5 for c in range(GRID[1])]
            for r in range(GRID[0])
        ]
    )


def slow_likeness(seen: ImageFeatures, source: ImageFeatures, inside: np.ndarray) -> np.ndarray:
    """On the grid, by loops and numpy: the rule as the header of corrections.py has it."""
    total = np.zeros(GRID)
    for layer, tap in seen.taps.items():
        rows = [row / np.linalg.norm(row) for row in source.taps[layer].patches[0].numpy().astype(np.float64)]
        flat = inside.ravel()
        marked = [row for row, yes in zip(rows, flat, strict=True) if yes]

        def far(row: np.ndarray, marked: list[np.ndarray] = marked) -> float:
            return min(1 - float(row @ one) for one in marked)

        reach = np.quantile([far(row) for row, yes in zip(rows, flat, strict=True) if not yes], REACH)
        for number, row in enumerate(tap.patches[0].numpy().astype(np.float64)):
            total[divmod(number, GRID[1])] += far(row / np.linalg.norm(row)) / max(reach, LEAST_REACH)
    return np.clip(1 - total / len(seen.taps), 0, 1)


@pytest.mark.parametrize("other", [3, 4])
def test_likeness_equals_loops(other: int) -> None:
    source = features(3)
    mark = mark_of(source, place(), MISS)
    found = likeness(features(other), mark, GRID)[0].numpy()
    assert np.allclose(found, slow_likeness(features(other), source, cells(place())), atol=1e-5)


def test_the_marked_place_itself_is_like_the_mark_and_nearly_nothing_else_is() -> None:
    source = features(5)
    near = likeness(source, mark_of(source, place(), FALSE_ALARM), GRID)[0].numpy()
    inside = cells(place())
    assert inside.sum() == 9
    assert np.allclose(near[inside], 1, atol=1e-5)
    assert (near[~inside] > 0).mean() <= 0.1  # REACH of each layer, and both have to agree on average


def test_a_false_alarm_ends_at_the_low_end_and_a_miss_at_the_high_end() -> None:
    source, found = features(5), prediction(1)
    core = (slice(16, 24), slice(24, 32))  # the middle cell: interpolation reaches the others
    for sign, end in ((FALSE_ALARM, 0.0), (MISS, 1.0)):
        maps = corrected(found, source, [mark_of(source, place(), sign)], RANGE).anomaly_map[0]
        before = found.anomaly_map[0]
        wanted = before[core].clamp(max=0.0) if sign == FALSE_ALARM else before[core].clamp(min=1.0)
        assert torch.allclose(maps[core], wanted, atol=1e-4), end
        assert bool((maps <= before).all() if sign == FALSE_ALARM else (maps >= before).all())


def test_the_score_moves_with_the_highest_percent() -> None:
    source, found = features(5), prediction(1)
    after = corrected(found, source, [mark_of(source, place(), MISS)], RANGE)
    assert torch.allclose(after.pred_score, top_mean(after.anomaly_map, 0.01))  # of a method whose score is that mean
    shifted = corrected(Prediction(found.pred_score + 2, found.anomaly_map), source, [mark_of(source, place(), MISS)], RANGE)
    assert torch.allclose(shifted.pred_score, after.pred_score + 2)


def test_no_mark_changes_nothing_and_later_marks_override_earlier_ones() -> None:
    source, found = features(5), prediction(1)
    assert corrected(found, source, [], RANGE) is found
    alarm, miss = (mark_of(source, place(), sign) for sign in (FALSE_ALARM, MISS))
    core = (0, slice(16, 24), slice(24, 32))
    assert bool((corrected(found, source, [alarm, miss], RANGE).anomaly_map[core] >= 1 - 1e-4).all())
    assert bool((corrected(found, source, [miss, alarm], RANGE).anomaly_map[core] <= 1e-4).all())


def test_pictures_of_a_batch_do_not_meet() -> None:
    mark, both, found = mark_of(features(5), place(), MISS), features(6, 2), prediction(2, 2)
    whole = corrected(found, both, [mark], RANGE)
    for row in range(2):
        single = Prediction(found.pred_score[row : row + 1], found.anomaly_map[row : row + 1])
        alone = corrected(single, both[row : row + 1], [mark], RANGE)
        assert torch.allclose(alone.anomaly_map[0], whole.anomaly_map[row], atol=1e-6)


def test_a_place_smaller_than_a_patch_takes_the_patch_that_it_is_in() -> None:
    mark = mark_of(features(5), place(slice(9, 11), slice(17, 19)), MISS)
    assert [len(bank.rows) for bank in mark.banks.values()] == [1, 1]
    assert mark.sign == MISS
    row = 1 * GRID[1] + 2
    assert torch.equal(mark.banks["/1"].rows[0], features(5).taps[1].patches[0, row])


def test_a_picture_that_is_marked_as_a_whole_and_one_without_structure() -> None:
    whole = mark_of(features(5), torch.ones(SIZE), MISS)
    assert set(whole.reach.values()) == {LEAST_REACH}
    flat = ImageFeatures(torch.zeros(1, 4), {1: Tap(torch.ones(1, 48, 16), GRID)})
    assert bool((likeness(flat, mark_of(flat, place(), MISS), GRID) > 0.9).all())  # it looks the same everywhere


def test_errors_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="Nothing is marked. Draw over the place, or choose a region."):
        mark_of(features(5), torch.zeros(SIZE), MISS)
    with pytest.raises(UsageError, match="keeps no patches of its pictures, so places cannot be marked"):
        mark_of(ImageFeatures(torch.zeros(1, 4)), place(), MISS)
