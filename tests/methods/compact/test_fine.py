"""Comparing with references in four times as many patches: which streams are computed, and that every way gives one score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import zsad
from zsad.common.assets import asset
from zsad.errors import UsageError
from zsad.methods.compact.second import BANK, NEAR, NEAR_SIDE, WHOLE, streams_read
from zsad.types import Bank

pytestmark = pytest.mark.slow
BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))
GOOD, SEEN = BRICKS[:2], BRICKS[4:5]


@pytest.fixture(scope="module")
def fine() -> Any:
    return zsad.Inspector("compact", references=GOOD, batch="off")


def scores(found: Any) -> list[float]:
    return [one.pred_score for one in found]


def test_streams_are_those_that_a_context_needs() -> None:
    bank = Bank(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    both, pool = (WHOLE, NEAR), {"pool.others": bank}
    assert streams_read(both, {}, False) == (WHOLE,)
    assert streams_read(both, {BANK: bank}, False) == (NEAR,)
    assert streams_read(both, {BANK: bank}, True) == both
    assert streams_read(both, pool, False) == (WHOLE,)
    assert streams_read(both, pool | {BANK: bank}, False) == both
    assert streams_read((WHOLE,), {BANK: bank}, False) == (WHOLE,)


def test_references_leave_four_times_as_many_patches_and_streams_that_nothing_reads_are_left_out(fine: Any) -> None:
    coarse = zsad.Inspector("compact", references=GOOD, batch="off", fine=False)
    assert len(fine.context.banks[BANK].rows) == len(GOOD) * (NEAR_SIDE // 14) ** 2 == 4 * len(coarse.context.banks[BANK].rows)
    images = torch.stack([fine.detector.preprocess(np.full((64, 64, 3), 90, np.uint8))])
    with torch.inference_mode():
        assert fine.scorer().encode(images).streams.keys() == {NEAR}
        assert fine.detector.encode(images).streams.keys() == {WHOLE, NEAR}
        assert coarse.scorer().encode(images).streams.keys() == {WHOLE}
        assert zsad.Inspector("compact").scorer().encode(images).streams.keys() == {WHOLE}


def test_every_way_to_a_score_gives_the_same(fine: Any) -> None:
    """Directly, from features that were encoded before there were references, and of references that were added later."""
    direct = scores(fine(iter(SEEN)))
    later = zsad.Inspector("compact", batch="off")
    encoded = later.encode(SEEN)
    without = scores(later.rescore(encoded))
    later.add_references(GOOD)
    assert scores(later.rescore(encoded)) == pytest.approx(direct, abs=1e-5)
    assert scores(later(iter(SEEN))) == pytest.approx(direct, abs=1e-5)
    later.remove_references(*later.references.names)
    assert scores(later(iter(SEEN))) == pytest.approx(without, abs=1e-5)
    assert scores(zsad.Inspector("compact", references=GOOD, batch="off", fine=False)(iter(SEEN))) != pytest.approx(
        direct, abs=1e-3
    )


def test_saved_references_are_refused_by_the_other_comparison(fine: Any, tmp_path: Any) -> None:
    fine.save_references(tmp_path / "saved")
    again = zsad.Inspector("compact", references=tmp_path / "saved", batch="off")
    assert scores(again(iter(SEEN))) == pytest.approx(scores(fine(iter(SEEN))), abs=1e-6)
    with pytest.raises(UsageError, match=r"encoded by another detector: arguments.fine was true and is false"):
        zsad.Inspector("compact", references=tmp_path / "saved", fine=False)
