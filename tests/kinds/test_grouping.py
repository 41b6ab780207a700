"""Groups, kinds of new regions, region merging and agreement with labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zsad.backbones.dinov2_weights import build_dinov2
from zsad.errors import UsageError
from zsad.inference.region_features import Found, features_of
from zsad.kinds.grouping import NEW, group, kinds_of
from zsad.kinds.merging import agreement, class_probability, merge_regions
from zsad.verification.tiny_dino import tiny_dino_state_dict


def clouds(*sizes: int, width: int = 8) -> Any:
    """Features around as many axes as there are sizes."""
    draw = np.random.default_rng(0)
    return np.concatenate([np.eye(width)[i] + 0.05 * draw.normal(size=(size, width)) for i, size in enumerate(sizes)])


@pytest.mark.parametrize("number", [None, 3])
def test_clouds_are_found(number: int | None) -> None:
    found = group(clouds(8, 6, 5), number)
    assert agreement(found, [0] * 8 + [1] * 6 + [2] * 5) == (1.0, 1.0, 1.0)
    kinds = kinds_of(clouds(8, 6, 5), found, {})
    assert kinds.names == ("kind 1", "kind 2", "kind 3")  # the largest first
    assert kinds.of(clouds(8, 6, 5)) == ["kind 1"] * 8 + ["kind 2"] * 6 + ["kind 3"] * 5


def test_a_new_region_is_of_a_known_kind_or_new() -> None:
    kinds = kinds_of(clouds(8, 6), group(clouds(8, 6), 2), {}, ["scratch", ""])
    assert set(kinds.names) == {"scratch", "kind 2"} or set(kinds.names) == {"scratch", "kind 1"}
    assert kinds.of(np.eye(8)[[1, 5]])[1] == NEW
    assert kinds.of(np.eye(8)[[1, 5]])[0] != NEW


def test_names() -> None:
    kinds = kinds_of(clouds(8, 6), group(clouds(8, 6), 2), {})
    one = kinds.renamed({"kind 1": "dent", "kind 2": "dent"})
    assert set(one.of(clouds(8, 6))) == {"dent"}  # kinds of one name are one
    with pytest.raises(UsageError, match="There is no kind 'kind 7'; there are 'kind 1', 'kind 2'"):
        kinds.renamed({"kind 7": "dent"})
    with pytest.raises(UsageError, match="needs a name, and not 'new'"):
        kinds.renamed({"kind 1": "new"})


def test_too_few() -> None:
    with pytest.raises(UsageError, match="Kinds are found by comparing regions, and there is 1 region"):
        group(clouds(1))
    with pytest.raises(UsageError, match="9 kinds of 5 regions cannot be. Give a number from 1 to 5"):
        group(clouds(5), 9)


def test_nothing_alike_is_one_kind() -> None:
    assert (group(np.eye(5)) == 0).all()


def test_large_regions_count_more() -> None:
    shares = class_probability([[1.0, 0.0], [0.0, 1.0]])
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    assert merge_regions(shares, [90_000, 100]).argmax() == 0
    assert merge_regions(shares, [100, 90_000]).argmax() == 1
    assert merge_regions(shares, [50, 50]) == pytest.approx([0.5, 0.5])
    assert class_probability([[5.0, 1.0, 1.0]], known=1) == pytest.approx(np.array([[0, 0.5, 0.5]]))


def test_agreement_by_hand() -> None:
    assert agreement([1, 1, 0, 0], [0, 0, 1, 1]) == (1.0, 1.0, 1.0)
    assert agreement([0, 0, 0, 0], [0, 0, 1, 1]).f1 == 0.5
    assert agreement([0, 0, 1, 1], [0, 0, 1, 0], [True, True, True, False]).f1 == 1
    with pytest.raises(UsageError, match="2 groups cannot be compared with 3 labels"):
        agreement([0, 1], [0, 1, 1])


def test_the_class_token_of_a_dino_sees_the_mask_alone() -> None:
    """What lies outside the mask changes the feature little beside what lies inside."""
    state = {k: v for k, v in tiny_dino_state_dict(3, layers=4, registers=0, swiglu=False).items() if "layer_scale" not in k}
    tower = build_dinov2("tiny", state).eval()
    crop = np.random.default_rng(0).integers(0, 255, (70, 70, 3)).astype(np.uint8)
    mask = np.zeros((70, 70), dtype=bool)
    mask[:28, :28] = True
    outside, inside = crop.copy(), crop.copy()
    outside[42:, 42:], inside[:28, :28] = 0, 0
    rows = features_of([Found(0, (0, 0, 70, 70), one, mask) for one in (crop, outside, inside)], tower)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3))
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
