"""The inspector on a detector whose answers are known: lazy, in order, one row per picture, every refusal a sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import SIDE, Brightness, BrightnessBackbone, folder_of, picture, registered_methods  # noqa: F401
from PIL import Image

import zsad
from zsad.common.threads import ahead
from zsad.errors import NeedsSet, NotTrained, UnknownName, UsageError
from zsad.inference.inspector import Inspector
from zsad.inference.settings import check_target, pick_device
from zsad.inference.verdict import original_size


def test_scores_labels_regions(tmp_path: Path) -> None:
    folder_of(tmp_path, 1, 1)
    inspector = Inspector("brightness", "lamp", threshold=0.9, review_at=0.2, pixel_threshold=0.5)
    normal, bright = inspector(tmp_path)
    assert (normal.name, normal.pred_label, normal.regions) == ("00.png", "review", ())
    assert normal.pred_score == pytest.approx(76 / 255)
    assert (bright.pred_label, bright.pred_score, bright.threshold) == ("anomalous", 1.0, 0.9)
    assert bright.threshold_source == "threshold given by the user; pixel threshold given by the user"
    (region,) = bright.regions
    assert (region.box, region.suggested_word) == ((8, 8, 24, 24), "left")
    assert bright.anomaly_map.shape == bright.pred_mask.shape == (64, 64)
    assert bright.anomaly_map.dtype == np.float32
    assert bright.prompts == {"anomalous": ("a bright lamp",)}
    assert (bright.method, bright.path, bright.error) == ("brightness", tmp_path / "01.png", None)
    assert bright.overlay().size == (64, 64)


def test_without_thresholds_there_is_no_verdict() -> None:
    (result,) = Inspector("brightness")(picture(0.5))
    assert (result.pred_label, result.threshold, result.pred_mask, result.regions) == (None, None, None, ())
    assert result.threshold_source == "no rule was given"
    assert result.pred_score == 0.5019608  # the float32's shortest decimal


def test_original_size_for_any_shape() -> None:
    shapes = [(1, 1), (3, 500), (700, 2), (37, 91)]
    for width, height in shapes:
        (result,) = Inspector("brightness", pixel_threshold=0.2)(picture(0.5, size=(width, height), plain=True))
        assert result.anomaly_map.shape == (height, width)
        assert result.regions[0].box == (0, 0, width, height)


def test_upsampling_by_hand() -> None:
    """Bilinear with pixel centres: 0, 1 over four places lie at 0, 0.25, 0.75, 1."""
    assert original_size(np.array([[0, 1]], np.float32), (1, 4))[0].tolist() == [0, 0.25, 0.75, 1]


def test_order_and_errors_as_rows(tmp_path: Path) -> None:
    folder_of(tmp_path, 11)
    (tmp_path / "04.png").write_bytes(b"no picture")
    (tmp_path / "10.png").write_bytes((tmp_path / "09.png").read_bytes()[:60])
    results = list(Inspector("brightness", batch_size=3)(tmp_path))
    assert [result.name for result in results] == [f"{i:02d}.png" for i in range(11)]
    assert [result.name for result in results if result.error] == ["04.png", "10.png"]
    assert all(result.pred_score is None and result.anomaly_map is None for result in results if result.error)


def test_an_error_moves_no_batch(tmp_path: Path) -> None:
    folder_of(tmp_path, 6)
    sizes = []

    class Counting(Brightness):
        def encode(self, images: torch.Tensor):
            sizes.append(len(images))
            return super().encode(images)

    (tmp_path / "01.png").write_bytes(b"")
    list(Inspector(Counting(BrightnessBackbone()), batch_size=3)(tmp_path))
    assert sizes == [2, 3]


def test_large_pictures_do_not_wait_for_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    encode = Brightness.encode
    monkeypatch.setattr(Brightness, "encode", lambda self, images: sizes.append(len(images)) or encode(self, images))
    monkeypatch.setattr("zsad.inference.scorer.KEPT_PIXELS", 5000)
    assert len(list(Inspector("brightness", batch_size=8)([picture(0.4, size=(50, 50))] * 5))) == 5
    assert sizes == [2, 2, 1]
    sizes.clear()
    list(Inspector("brightness", batch_size=4)([picture(0.4, size=(10, 10))] * 9))
    assert sizes == [4, 4, 1]


def test_lazy() -> None:
    asked = []

    def endless() -> Iterator[Image.Image]:
        while True:
            asked.append(1)
            yield picture(0.4)

    results = Inspector("brightness", batch_size=4)(endless())
    assert not asked
    assert next(results).pred_score is not None
    assert len(asked) < 20
    results.close()


def test_not_finite_is_an_error() -> None:
    (result,) = Inspector("brightness", gain=float("nan"))(picture(0.4))
    assert result.error == "the method gave a score or a map that is no finite number"
    assert result.pred_score is None


def test_describe_is_what_a_score_depends_on() -> None:
    described = Inspector("brightness", "lamp", gain=2.0).describe()
    assert described["method"] == "brightness"
    assert described["arguments"] == {"gain": 2.0, "untrained": False, "pause": 0.0}
    assert described["sentences"] == {"anomalous": ["a bright lamp"]}
    assert (described["backbone"], described["backbone_sha256"], described["image_size"]) == ("grey", "0" * 64, SIDE)


@pytest.mark.parametrize("target", ["", "  ", "word " * 500, "x" * 301, "a\x1b[31m"])
def test_bad_target(target: str) -> None:
    with pytest.raises(UsageError, match="metal nut"):
        check_target(target)


def test_target_of_500_words_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="The target has 500 words and 2499 characters.*at most 40 words and 300 characters"):
        Inspector("brightness", "word " * 500)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"references": "good/"}, "There is nothing at 'good/'"),
        ({"batch_size": 0}, "batch_size is 0; it has to be at least 1"),
        ({"workers": 0}, "workers is 0"),
        ({"device": "warp"}, "No device is called 'warp'"),
        ({"gian": 2}, "No argument of 'brightness' is called 'gian'. Did you mean 'gain'"),
        ({"backbone": "gray"}, "No backbone is called 'gray'. Did you mean 'grey'"),
        ({"untrained": True}, "has no learned weights yet"),
        ({"checkpoint": "w.pt"}, "no learned weights, so there is no checkpoint to load"),
    ],
)
def test_refusals(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Inspector("brightness", **arguments)
    assert said in str(caught.value)


def test_refusal_types() -> None:
    with pytest.raises(NotTrained):
        Inspector(Brightness(BrightnessBackbone(), untrained=True))
    with pytest.raises(UnknownName, match="Did you mean 'brightness'"):
        Inspector("brightnes")
    with pytest.raises(UsageError, match="A built brightness was given together with backbone, gain"):
        Inspector(Brightness(BrightnessBackbone()), backbone="grey", gain=2)


def test_device_that_is_not_there() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cuda' is not available here"):
            pick_device("cuda")
    assert str(pick_device("cpu")) == "cpu"


def test_a_method_that_needs_the_set_has_to_say_how() -> None:
    class Mutual(Brightness):
        def needs_set(self, context: object) -> bool:
            return True

    with pytest.raises(NeedsSet, match="compares pictures with each other and does not define how"):
        list(Inspector(Mutual(BrightnessBackbone()))(picture(0.5)))


# ------------------------------------------------------------------ threads
def test_ahead_keeps_order_and_bounds() -> None:
    running, most, lock = 0, 0, threading.Lock()
    begun = []

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            begun.append(item)
        time.sleep(0.002 if item % 2 else 0.006)
        with lock:
            running -= 1
        return item

    taken = []
    for done in ahead(range(30), work, workers=3, waiting=5):
        taken.append(done)
        assert len(begun) <= len(taken) + 6
    assert taken == list(range(30))
    assert most <= 3


def test_ahead_raises_what_the_work_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ahead([1, 0], lambda item: 1 // item, workers=2, waiting=2))


@pytest.mark.parametrize("method", ["winclip", "anomalyclip", "adaclip"])
def test_bf16_is_near_fp32_and_repeatable(method: str) -> None:
    """Half of the mantissa in the encoder alone: scores and maps are float32, near the exact ones, and the same every time."""
    recipe = zsad.registry.method_class(method).recipe
    options = {"activation": recipe.activation, "position_embedding": recipe.position_embedding, "image_size": 80}
    torch.manual_seed(0)
    detector = zsad.create(method, backbone=zsad.load_backbone("tiny", **options))
    detector.trained = True
    pixels = np.random.default_rng(0).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    runs = [next(Inspector(detector, "nut", precision=kind)([pixels])) for kind in ("fp32", "bf16", "bf16")]
    exact, half, again = runs
    assert half.anomaly_map.dtype == np.float32
    assert 0 < np.abs(half.anomaly_map - exact.anomaly_map).max() < 0.05
    assert half.pred_score == pytest.approx(exact.pred_score, abs=0.05)
    assert half.pred_score == again.pred_score
    assert np.array_equal(half.anomaly_map, again.anomaly_map)


def test_precisions_that_are_refused() -> None:
    with pytest.raises(UsageError, match="fp16 is for cuda, mps and xpu"):
        Inspector("brightness", device="cpu", precision="fp16")
    with pytest.raises(UsageError, match="No precision is called 'int4'"):
        Inspector("brightness", precision="int4")
    assert Inspector("brightness", precision="bf16").describe()["precision"] == "bf16"


def test_results_under_another_name_have_its_sentences() -> None:
    inspector = Inspector("brightness", "lamp")
    (result,) = inspector.rescore(inspector.encode(picture(0.5)), "bulb")
    assert result.prompts == {"anomalous": ("a bright bulb",)}
