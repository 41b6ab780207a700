"""When an inspector compares the pictures of a set with each other, and that nothing else changes then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zsad
from zsad.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
BRICKS = sorted((ROOT / "demo" / "examples" / "brick").glob("*.png"))


def small(**settings: Any) -> zsad.Inspector:
    """With compact's one small tower, which takes half the time of the two."""
    return zsad.Inspector(tower="small", **settings)


@pytest.fixture(scope="module")
def inspector() -> zsad.Inspector:
    return small(target="brick wall")


def scores(found: Any) -> dict[str, float]:
    return {one.name: one.pred_score for one in found}


@pytest.fixture(scope="module")
def by_itself(inspector: zsad.Inspector) -> dict[str, float]:
    return scores(inspector.alone()(BRICKS))


@pytest.fixture(scope="module")
def as_folder(inspector: zsad.Inspector) -> dict[str, float]:
    return scores(inspector(BRICKS[0].parent))


@pytest.mark.slow
def test_a_list_a_folder_and_encoded_pictures_are_a_set(
    inspector: zsad.Inspector, by_itself: dict[str, float], as_folder: dict[str, float]
) -> None:
    assert scores(inspector(BRICKS)) == pytest.approx(as_folder, abs=1e-5)
    encoded = inspector.encode(BRICKS)
    assert scores(inspector.rescore(encoded)) == pytest.approx(as_folder, abs=1e-4)
    assert scores(inspector.alone().rescore(encoded)) == pytest.approx(by_itself, abs=1e-5)
    assert all(abs(by_itself[name] - as_folder[name]) > 1e-3 for name in by_itself)


def test_the_defective_ones_come_first(as_folder: dict[str, float]) -> None:
    order = sorted(as_folder, key=lambda name: -as_folder[name])
    assert set(order[:3]) == {"brick-03.png", "brick-05.png", "brick-08.png"}
    assert as_folder[order[2]] > 2 * as_folder[order[3]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [iter(BRICKS), map(Path, BRICKS), BRICKS[:7], BRICKS[0]], ids=("iterator", "map", "few", "one")
)
def test_a_stream_and_a_few_pictures_are_scored_one_by_one(
    source: Any, inspector: zsad.Inspector, by_itself: dict[str, float]
) -> None:
    found = scores(inspector(source))
    assert found == pytest.approx({name: by_itself[name] for name in found}, abs=1e-5)


@pytest.mark.slow
def test_where_something_better_is_known_auto_is_off(inspector: zsad.Inspector) -> None:
    assert inspector.over(12).needs_set
    assert not inspector.needs_set, "the inspector itself does not change"
    few = inspector.fork()
    few.add_references(BRICKS[:1])
    calibration = zsad.Calibration.from_scores([0.1] * 30, [0.2] * 30)
    given = [few, small(threshold=0.5), small(calibration=calibration), small(batch="off")]
    for one in (*given, zsad.Inspector("winclip", backbone="tiny")):
        assert one.over(12) is one or not one.over(12).needs_set


@pytest.mark.slow
def test_few_references_and_the_folder_are_joined() -> None:
    both = zsad.Inspector(references=BRICKS[:1])
    assert both.over(12).needs_set
    assert not both.over(7).needs_set
    both.detector.enough_references = 1
    assert both.over(12) is both


@pytest.mark.slow
def test_on_is_for_every_source_and_with_references(by_itself: dict[str, float], as_folder: dict[str, float]) -> None:
    always = small(batch="on")
    assert always.describe()["arguments"]["batch"] is True
    assert scores(always(iter(BRICKS))) == pytest.approx(as_folder, abs=1e-4)
    assert small(batch=True).describe() == always.describe()
    joined = scores(small(batch="on", references=BRICKS[:1])(BRICKS[1:]))
    assert joined.keys() == by_itself.keys() - {"brick-01.png"}
    assert max(joined, key=joined.__getitem__) in {"brick-03.png", "brick-05.png", "brick-08.png"}


def test_refusals() -> None:
    with pytest.raises(UsageError, match="batch is 'perhaps'. Give 'auto', 'on' or 'off'."):
        zsad.Inspector(batch="perhaps")
    with pytest.raises(UsageError, match="april_gan scores each picture by itself|winclip scores each picture by itself"):
        zsad.Inspector("winclip", backbone="tiny", batch="on")


@pytest.mark.slow
def test_given_words_still_steer_a_folder(as_folder: dict[str, float]) -> None:
    worded = small(words=("crack",))
    results = list(worded(BRICKS))
    assert scores(results) != pytest.approx(as_folder, abs=1e-3)
    assert worded.over(12).needs_set


@pytest.mark.slow
def test_tiles_and_a_region_of_interest_go_along() -> None:
    tiled = small(tile=120, overlap=0.0)
    found = list(tiled(BRICKS[:8]))
    assert all(one.error is None and one.anomaly_map.shape == one.image.shape[:2] for one in found)
    assert max(found, key=lambda one: one.pred_score).name in {"brick-03.png", "brick-05.png", "brick-08.png"}
    cropped = list(small(roi="25%,25%,75%,75%")(BRICKS[:8]))
    assert all(one.error is None and not one.roi_mask.all() for one in cropped)


@pytest.mark.slow
def test_an_unreadable_picture_is_one_row(tmp_path: Path, inspector: zsad.Inspector) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    found = list(inspector([*BRICKS, broken]))
    assert [one.name for one in found if one.error] == ["broken.png"]
    assert len(found) == 13


# ------------------------------------------------------------------ levels from references
def noisy(seed: int, blot: bool = False) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    picture = 128 + 40 * np.sin(np.arange(200) / 7)[None, :, None] + rng.normal(0, 6, (200, 200, 1))
    if blot:
        picture[60:110, 80:130] = 20
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8), 3, axis=2)


@pytest.mark.slow
def test_references_give_levels_and_what_was_given_goes_first() -> None:
    few = small()
    few.add_references([noisy(seed) for seed in range(8)])
    levels = few.known_thresholds()
    assert "from the 8 references, each scored by the others" in levels.source
    assert levels.review < levels.anomalous
    results = list(few([noisy(seed) for seed in range(20, 30)] + [noisy(40, blot=True)]))
    labels = [levels.label(one.pred_score) for one in results]
    assert labels[-1] == "anomalous"
    assert labels[:-1].count("normal") >= 7
    by_hand = []
    for name in few.references.names:
        other = few.fork()
        other.remove_references(name)
        by_hand.append(next(iter(other([noisy(few.references.names.index(name))]))).pred_score)
    low, middle, high = np.quantile(by_hand, (0.25, 0.5, 0.75))
    assert levels.anomalous == pytest.approx(middle + 2.5 * (high - low) / 1.349, abs=2e-3)
    forked = few.fork()
    del few
    assert forked.known_thresholds().anomalous == pytest.approx(levels.anomalous, abs=1e-6)
    forked.remove_references(*forked.references.names[:5])
    assert forked.known_thresholds().anomalous is None, "three are too few"
    set_by_hand = small(threshold=0.4, references=[noisy(seed) for seed in range(4)])
    assert set_by_hand.known_thresholds().anomalous == 0.4


@pytest.mark.slow
def test_references_from_a_folder_give_no_levels(tmp_path: Path) -> None:
    few = small()
    few.add_references([noisy(seed) for seed in range(4)])
    few.save_references(tmp_path / "kept")
    assert small(references=tmp_path / "kept").known_thresholds().anomalous is None


@pytest.mark.slow
def test_the_first_tower_does_not_run_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = zsad.Inspector()  # of two towers

    def fails(*_: Any) -> Any:
        raise AssertionError("the first tower ran")

    monkeypatch.setattr(inspector.detector.backbone, "encode_image", fails)
    assert len(list(inspector(BRICKS[:8]))) == 8
    with pytest.raises(AssertionError, match="the first tower ran"), torch.inference_mode():
        list(inspector(BRICKS[:2]))


@pytest.mark.slow
def test_the_references_are_scored_once_until_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    few, sizes = small(), []
    few.add_references([noisy(seed) for seed in range(5)])
    real = few.detector.score

    def counting(features: Any, context: Any) -> Any:
        sizes.append(len(features))
        return real(features, context)

    monkeypatch.setattr(few.detector, "score", counting)
    first = few.known_thresholds()
    assert len(sizes) == 5
    assert few.known_thresholds() == first == few.fork().known_thresholds()
    assert len(sizes) == 5
    few.add_references([noisy(9)])
    assert few.known_thresholds() != first
    assert len(sizes) == 11
