"""LAFT's laws, its words, and mistakes that the comparison with its authors' outputs sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_sets import COMMITTED

import zsad
from zsad.alignment.concepts import Concept, mean_nearest
from zsad.common.output_folder import current_names, differences
from zsad.errors import UsageError
from zsad.inference.settings import describe_encoder
from zsad.prompts.concepts import ROWS, concept_texts
from zsad.types import Context, References
from zsad.verification import laft_parts
from zsad.verification.compare import Comparisons
from zsad.verification.reference import Reference

WORDS = {"focus": ("scratch", "dent"), "ignore_words": ("bright lighting",)}


@pytest.fixture(scope="module")
def tower() -> Any:
    return zsad.load_backbone("tiny", image_size=80)


def pictures(count: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 80, 80, generator=torch.Generator().manual_seed(seed))


def with_words(method: str, tower: Any, **words: Any) -> Any:
    return zsad.create(method, backbone=tower, **words)


@pytest.mark.parametrize("method", ["laft", "winclip"])
def test_batches_change_nothing(method: str, tower: Any) -> None:
    detector = with_words(method, tower, **WORDS)
    context = detector.prepare("nut", References(pictures(3, seed=5)))
    assert context.extra[ROWS].shape[0] == 2  # two words to look at, and what they share with the third taken off
    with torch.inference_mode():
        whole = detector.score(detector.encode(pictures(3)), context)
        for i in range(3):
            one = detector.score(detector.encode(pictures(3)[i : i + 1]), context)
            torch.testing.assert_close(one.pred_score[0], whole.pred_score[i])
            torch.testing.assert_close(one.anomaly_map[0], whole.anomaly_map[i])


@pytest.mark.parametrize("method", ["laft", "winclip"])
def test_words_move_scores_and_maps(method: str, tower: Any) -> None:
    shown = References(pictures(2, seed=5))
    with torch.inference_mode():
        features = with_words(method, tower).encode(pictures(2))
        plain, focused, freed = (
            (detector := with_words(method, tower, **words)).score(features, detector.prepare("nut", shown))
            for words in ({}, {"focus": ("scratch",)}, {"ignore_words": ("scratch",)})
        )
    assert not torch.allclose(plain.pred_score, focused.pred_score, atol=1e-4)
    assert not torch.allclose(focused.pred_score, freed.pred_score, atol=1e-4)
    assert not torch.allclose(plain.anomaly_map, focused.anomaly_map, atol=1e-4)


def test_a_reference_is_no_anomaly(tower: Any) -> None:
    detector = with_words("laft", tower, neighbours=1, **WORDS)
    with torch.inference_mode():
        shown = pictures(2)
        found = detector.score(detector.encode(shown), detector.prepare("nut", References(shown)))
    assert found.pred_score.max() < 1e-5
    assert found.anomaly_map.max() < 1e-5


def test_without_words_it_is_the_paper_s_baseline(tower: Any) -> None:
    detector = with_words("laft", tower, neighbours=2)
    with torch.inference_mode():
        features, shown = detector.encode(pictures(2)), pictures(3, seed=5)
        found = detector.score(features, detector.prepare("nut", References(shown)))
        torch.testing.assert_close(found.pred_score, mean_nearest(features.image, detector.encode(shown).image, 2))


def test_sentences() -> None:
    lists = concept_texts("nut", ["scratch", "rusty {}"])
    assert [lines[0] for lines in lists] == [
        "a cropped photo of the nut.",
        "a cropped photo of the nut with scratch.",
        "a cropped photo of the rusty nut.",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"focus": ("",)}, "is empty or does not print"),
        ({"focus": ("{}",)}, "is empty or does not print"),
        ({"focus": ("划痕",)}, "'划痕' is outside the vocabulary: .* 5 of its pieces as single bytes"),
        ({"focus": ("scratch",), "ignore_words": ("scratch",)}, "Nothing is left to look at: all that 'scratch' differ in"),
        ({"focus": ("scratch",), "components": 0}, "components=0: give at least 1"),
    ],
)
@pytest.mark.parametrize("method", ["laft", "winclip"])
def test_words_that_cannot_be(method: str, words: dict[str, Any], message: str, tower: Any) -> None:
    with pytest.raises(UsageError, match=message):
        with_words(method, tower, **words).prepare("nut")


def test_arguments_that_cannot_be(tower: Any) -> None:
    with pytest.raises(UsageError, match="neighbours=0 and scales"):
        with_words("laft", tower, neighbours=0).prepare()
    with pytest.raises(UsageError, match=r"projected has \['text'\]; choose among image-text"):
        with_words("winclip", tower, projected=("text",)).prepare()
    with pytest.raises(UsageError, match="laft compares pictures with normal references and needs 1 or more; got 0"):
        with_words("laft", tower).score(with_words("laft", tower).encode(pictures(1)), with_words("laft", tower).prepare())


def test_the_inspector_says_which_methods_take_words() -> None:
    with pytest.raises(UsageError, match="compact has no space that pictures and texts share, so --focus would do nothing"):
        zsad.Inspector("compact", focus=("scratch",))
    with pytest.raises(UsageError, match="so --focus and --ignore-words would do nothing.* --method laft or winclip"):
        zsad.Inspector("april_gan", focus=("scratch",), ignore_words=("light",))


def test_words_are_part_of_the_description(tower: Any) -> None:
    described = zsad.Inspector("winclip", "nut", backbone=tower, focus=("scratch",)).describe()
    assert described["arguments"]["focus"] == ["scratch"]


def test_winclip_of_earlier_versions_is_the_same_without_words(tower: Any) -> None:
    """Runs and saved references from before the options can be gone on with."""
    now = describe_encoder(zsad.Inspector("winclip", backbone=tower)._scorer(Context()))
    then = now | {"arguments": {k: v for k, v in now["arguments"].items() if k in ("scales", "temperature", "prompts")}}
    assert then != now
    assert not differences(current_names(then), now)


# ------------------------------------------------------------------ mistakes are seen
def _no_differences(*lists: torch.Tensor) -> Concept:
    _, values, basis = torch.linalg.svd(torch.cat(lists).double(), full_matrices=False)
    return Concept(basis.float()[:11], values[:11])


def _one_more(rows: torch.Tensor, references: torch.Tensor, count: int) -> torch.Tensor:
    return mean_nearest(rows, references, count + 1)


@pytest.mark.parametrize(
    ("name", "mistake", "output"),
    [
        ("concept_subspace", _no_differences, "unit/singular_values"),
        ("ignored", laft_parts.guided, "unit/orthogonal_basis"),
        ("mean_nearest", _one_more, "unit/knn_5"),
    ],
)
def test_mistakes_are_seen(name: str, mistake: Any, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laft_parts, name, mistake)
    check = Comparisons(Reference(COMMITTED, "laft"))
    laft_parts.compare_projections(check)
    assert output in {one.output for one in check.made if not one.passed}


def test_the_right_way_passes() -> None:
    check = Comparisons(Reference(COMMITTED, "laft"))
    laft_parts.compare_projections(check)
    assert all(one.passed for one in check.made)
    assert len(check.made) > 15


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from zsad.cli import app

    for i in range(3):
        Image.new("RGB", (40, 40), (90 * i, 30, 60)).save(tmp_path / f"{i}.png")
    options = ["--method", "laft", "--backbone", "tiny", "--references", str(tmp_path), "--out", str(tmp_path / "out")]
    words = ["--focus", "scratch", "--ignore-words", "bright lighting"]
    done = CliRunner().invoke(app, ["predict", str(tmp_path), "--target", "nut", *options, *words])
    assert done.exit_code == 0, done.output
    run = (tmp_path / "out/run.json").read_text(encoding="utf-8")
    assert '"bright lighting"' in run


@pytest.mark.slow
def test_words_go_with_calibrations_references_and_evaluations(tmp_path: Path) -> None:
    """What was made with words is refused without them, and the other way round."""
    from PIL import Image
    from typer.testing import CliRunner

    from zsad.cli import app

    def run(*given: object) -> Any:
        return CliRunner().invoke(app, [*map(str, given)])

    draw = np.random.default_rng(0)
    for kind, count in (("test/good", 4), ("test/bent", 2), ("train/good", 2)):
        for i in range(count):
            place = tmp_path / "data" / kind / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(place)
    normal, new = tmp_path / "data/test/good", tmp_path / "data/test/bent"
    method = ("--method", "laft", "--backbone", "tiny", "--target", "nut")
    words = ("--focus", "scratch", "--ignore-words", "bright lighting")
    saved, levels = tmp_path / "kept", tmp_path / "levels.json"
    done = run("references", saved, "--add", tmp_path / "data/train/good", *method[:4], *words)
    assert done.exit_code == 0, done.output
    shown = (*method, "--references", saved)
    done = run("calibrate", "--normal", normal, *shown, *words, "--max-false-alarms", "0.5", "--out", levels)
    assert done.exit_code == 0, done.output
    decided = run("predict", new, *shown, *words, "--calibration", levels, "--out", tmp_path / "out")
    assert decided.exit_code == 0, decided.output
    for other, what in ((shown, "arguments.focus was"), ((*method, "--references", tmp_path / "data/train/good"), "focus")):
        refused = run("predict", new, *other, "--calibration", levels, "--out", tmp_path / "other")
        assert refused.exit_code == 2, refused.output
        assert what in " ".join(refused.output.split())
    data = ("evaluate", "--data", tmp_path / "data", *method[:4], "--shots", "1", "--out", tmp_path / "figures")
    done = run(*data, *words)
    assert done.exit_code == 0, done.output
    assert '"bright lighting"' in (tmp_path / "figures/metrics.json").read_text(encoding="utf-8")
    without = run(*data, "--resume")
    assert without.exit_code == 2, without.output
    assert "focus" in without.output
    nothing = run("evaluate", "--data", tmp_path / "data", "--focus", "scratch", "--out", tmp_path / "none")
    assert "so --focus would do nothing" in " ".join(nothing.output.split())
