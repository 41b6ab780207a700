"""evaluate: its numbers compared with scikit-learn's, malformed data sets, references, leakage, processes."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import brightness
import numpy as np
import pytest
import torch
import trees
from brightness import SIDE, Brightness, BrightnessBackbone, Failing, Named, picture, registered_methods  # noqa: F401
from noisy_set import CATEGORIES, noisy, truth, write_noisy_set
from PIL import Image
from typer.testing import CliRunner, Result

import zsad
from zsad.cli import app
from zsad.datasets import Dataset, open_dataset
from zsad.errors import UnknownName, UsageError
from zsad.evaluation import category
from zsad.evaluation.leakage import data_sets_in, identify
from zsad.evaluation.plan import problems_of
from zsad.inference.inspector import Inspector
from zsad.metrics import aupro, aupro_legacy
from zsad.types import Context


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noisy_set(tmp_path_factory.mktemp("sets") / "parts")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """One that a test may spoil."""
    return write_noisy_set(tmp_path / "parts")


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, ["evaluate", "--method", "brightness", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def by_hand(root: Path, category: str, size: int = SIDE) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Labels, maps and masks of a category, with nothing of zsad but the detector's definition: brightness at 32 px."""
    labels, maps, masks = [], [], []
    for path in sorted((root / category / "test").rglob("*.png")):
        grey = Image.open(path).resize((SIDE, SIDE), Image.Resampling.BOX)
        maps.append((np.asarray(grey).astype(np.float32) / 255).mean(2, dtype=np.float32))
        labels.append(int(path.parent.name != "good"))
        mask = np.zeros((size, size), bool)
        if labels[-1]:
            file = root / category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            mask = np.asarray(Image.open(file).resize((size, size), Image.Resampling.BILINEAR)) > 127
        masks.append(mask)
    return labels, maps, masks


def best_f1(truths: Any, scores: Any) -> float:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truths, scores)
    return float(np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


# ------------------------------------------------------------------ numbers
def test_numbers_equal_scikit_learn_on_the_same_scores(data: Path) -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    found = zsad.evaluate("brightness", data, "image_auroc,image_ap,image_f1_max,pixel_auroc,pixel_ap,pixel_f1_max", exact=True)
    assert found.categories == CATEGORIES
    assert found.map_size == SIDE
    for row in found.rows:
        labels, maps, masks = by_hand(data, row.category)
        scores = [one.max() for one in maps]
        pixels, inside = np.ravel(maps), np.ravel(masks)
        wanted = {
            "image_auroc": roc_auc_score(labels, scores),
            "image_ap": average_precision_score(labels, scores),
            "image_f1_max": best_f1(labels, scores),
            "pixel_auroc": roc_auc_score(inside, pixels),
            "pixel_ap": average_precision_score(inside, pixels),
            "pixel_f1_max": best_f1(inside, pixels),
        }
        assert dict(row.values) == pytest.approx(wanted, abs=1e-6)
        assert 0.5 < row.values["image_auroc"] < 1  # or the comparison would show nothing
        assert (row.normal, row.anomalous, row.masks) == (7, 5, 5)
        called = np.array(scores) >= np.float32(row.thresholds["image_f1_max"])
        hits = (called & np.array(labels, bool)).sum()
        assert 2 * hits / (called.sum() + 5) == pytest.approx(row.values["image_f1_max"])
        assert set(row.bounds.values()) == {0.0}
    mean = found.mean("pixel_ap")
    assert mean.mean == pytest.approx(statistics.fmean(row.values["pixel_ap"] for row in found.rows))
    assert (mean.over, math.isnan(mean.std)) == (2, True)


def test_overlap_metrics_and_bounds(data: Path) -> None:
    found = zsad.evaluate("brightness", data, ["aupro_legacy", "aupro", "aupimo", "pixel_ap"], "nut")
    exact = zsad.evaluate("brightness", data, ["pixel_ap", "aupro"], "nut", exact=True).rows[0]
    assert found.metrics == ("pixel_ap", "aupro", "aupimo", "aupro_legacy")
    row = found.rows[0]
    _, maps, masks = by_hand(data, "nut")
    assert row.values["aupro_legacy"] == pytest.approx(aupro_legacy(maps, masks), abs=1e-6)
    assert exact.values["aupro"] == pytest.approx(aupro(maps, masks), abs=1e-6)
    for name in ("aupro", "pixel_ap"):
        assert abs(row.values[name] - exact.values[name]) <= row.bounds[name] + 1e-12
    assert math.isnan(row.values["aupimo"])  # seven small pictures cannot resolve its bounds
    assert any("AUPIMO" in note for note in row.notes)
    assert not any("AUPIMO" in note for note in exact.notes)


def test_map_size_resizes_maps_and_masks(data: Path) -> None:
    from sklearn.metrics import roc_auc_score

    found = zsad.evaluate("brightness", data, "pixel_auroc", "bolt", map_size=64, exact=True)
    _, maps, masks = by_hand(data, "bolt", 64)
    large = torch.nn.functional.interpolate(torch.from_numpy(np.stack(maps))[:, None], (64, 64), mode="bilinear")
    wanted = roc_auc_score(np.ravel(masks), large.numpy().ravel())
    assert found.rows[0].values["pixel_auroc"] == pytest.approx(wanted, abs=1e-5)
    assert found.map_size == 64
    assert "pixel AUROC (64 px)" in found.to_markdown()
    with pytest.raises(UsageError, match="map_size is 4; give the side of the maps in pixels, at least 8"):
        zsad.evaluate("brightness", data, map_size=4)


def test_a_region_of_interest_goes_back_to_its_place(data: Path) -> None:
    inspector = Inspector("brightness", roi=(0, 0, 32, 64))
    job = zsad.evaluation.plan.plan_jobs(*[open_dataset(data)] * 2, 0, ())[0]
    [scored] = list(inspector.scored([zsad.images.reading.ImageRef("a", job.samples[0].path)]))
    whole = category.map_of(inspector, scored, 64)
    assert whole.shape == (64, 64)
    assert np.isnan(whole[:, 32:]).all()
    assert (whole[:, :32] > 0.1).all()
    assert "tile" in zsad.evaluate(Inspector("brightness", tile=32), data, "pixel_ap", "nut").about["detector"]["geometry"]


def test_a_category_without_normal_pictures_is_nan_and_left_out_of_the_mean(own: Path) -> None:
    for path in (own / "nut/test/good").iterdir():
        path.unlink()
    found = zsad.evaluate("brightness", own)
    row = found.rows[1]
    assert math.isnan(row.values["image_auroc"])
    assert row.values["pixel_auroc"] > 0.5
    assert "Image metrics need both classes; there are 0 normal and 5 anomalous pictures: NaN." in row.notes
    assert found.mean("image_auroc").mean == found.rows[0].values["image_auroc"]
    assert (found.mean("image_auroc").over, found.mean("pixel_auroc").over) == (1, 2)
    assert f"{found.rows[0].values['image_auroc']:.3f} (1 of 2)" in found.to_markdown()
    assert found.as_dict()["categories"]["nut"]["image_auroc"] == {"mean": None, "std": None, "over": 0}


def test_a_set_without_masks_gets_image_metrics_alone(tmp_path: Path) -> None:
    trees.elpv(tmp_path / "cells")
    found = zsad.evaluate("brightness", tmp_path / "cells")
    assert found.metrics == ("image_auroc", "image_ap", "image_f1_max")
    assert found.categories == ("mono", "poly")
    assert {row.target for row in found.rows} == {"solar cell"}
    assert "px" not in found.to_markdown().split("\n", 2)[2]
    asked = zsad.evaluate("brightness", tmp_path / "cells", "aupro")
    assert "No mask of poly can be used, so its pixel metrics are NaN." in asked.rows[1].notes


def test_names_in_words_or_as_they_are(tmp_path: Path) -> None:
    trees.mvtec(tmp_path / "set")
    assert [row.target for row in zsad.evaluate("brightness", tmp_path / "set").rows] == ["bottle", "metal nut"]
    assert zsad.evaluate("brightness", tmp_path / "set", raw_names=True).rows[1].target == "metal_nut"


# ------------------------------------------------------------------ malformed sets
def spoil(root: Path) -> None:
    """Puts every kind of malformed file into the first category."""
    tests, masks = root / "bolt/test", root / "bolt/ground_truth/crack"
    (tests / "good/000.png").write_bytes(b"broken")
    (masks / "000_mask.png").unlink()
    truth(masks / "001_mask.png", (0, 0, 9, 9), size=(50, 64))
    deep = np.zeros((64, 64), np.uint16)
    deep[10:26, 12:26] = 40000
    Image.fromarray(deep).save(masks / "002_mask.png")
    truth(masks / "003_mask.png", (18, 10, 32, 26), value=3)
    truth(masks / "004_mask.png", (24, 10, 25, 11))
    (root / "empty/test/good").mkdir(parents=True)
    noisy(root / "untested/train/good/000.png", 1)


def test_malformed_pictures_and_masks_are_listed_and_the_rest_counts(own: Path) -> None:
    spoil(own)
    found = zsad.evaluate("brightness", own, exact=True)
    row = found.rows[0]
    assert (row.normal, row.anomalous, row.masks) == (6, 5, 3)
    assert len(row.errors) == 2
    assert "'bolt/test/good/000.png' is no picture of a kind" in row.errors[0]
    assert row.errors[1].startswith("bolt/test/crack/001.png: left out of the pixel metrics. The mask of '001.png' is 64 x 50")
    notes = "\n".join(row.notes)
    assert "Anomalous pictures without a mask: 1. They are left out of the pixel metrics." in notes
    assert "16-bit values from 0 to 40000: all above 0 are the defect (1 picture: bolt/test/crack/002.png)" in notes
    assert "mask with 2 values from 0 to 3: all above 0 are the defect (1 picture: bolt/test/crack/003.png)" in notes
    assert "the mask vanishes at 32 x 32 pixels (1 picture: bolt/test/crack/004.png)" in notes
    assert any("bolt/test/crack/000.png: is anomalous and has no mask." in text for text in found.problems)
    assert "untested: has no picture to score." in found.errors
    assert all(not math.isnan(value) for value in row.values.values())
    clean = zsad.evaluate("brightness", own, categories="nut").rows[0]
    assert found.rows[1].values == clean.values
    assert not clean.errors


def test_pixel_metrics_leave_out_what_has_no_mask(own: Path) -> None:
    """The same values as by hand over the pictures that are left."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    (own / "bolt/ground_truth/crack/000_mask.png").unlink()
    (own / "bolt/test/good/000.png").write_bytes(b"broken")
    row = zsad.evaluate("brightness", own, "pixel_ap,image_auroc", "bolt", exact=True).rows[0]
    picture(0.1).save(own / "bolt/test/good/000.png")
    truth(own / "bolt/ground_truth/crack/000_mask.png", (0, 0, 1, 1))
    labels, maps, masks = by_hand(own, "bolt")  # crack/000 to 004, then good/000 to 006
    keep = [index for index in range(12) if index not in (0, 5)]
    assert row.values["pixel_ap"] == pytest.approx(
        average_precision_score(np.ravel([masks[i] for i in keep]), np.ravel([maps[i] for i in keep])), abs=1e-6
    )
    keep = [index for index in range(12) if index != 5]
    wanted = roc_auc_score([labels[i] for i in keep], [maps[i].max() for i in keep])
    assert row.values["image_auroc"] == pytest.approx(wanted, abs=1e-6)


def test_a_normal_picture_counts_with_an_empty_mask_whatever_its_file(tmp_path: Path) -> None:
    noisy(tmp_path / "set/a.png", 1)
    noisy(tmp_path / "set/b.png", 2, (8, 8, 24, 24))
    truth(tmp_path / "set/a_truth.png", (0, 0, 20, 20))
    truth(tmp_path / "set/b_truth.png", (8, 8, 24, 24))
    trees.write(tmp_path / "set/manifest.csv", "path,label,mask\na.png,0,a_truth.png\nb.png,1,b_truth.png\n")
    row = zsad.evaluate("brightness", tmp_path / "set", "pixel_auroc", exact=True).rows[0]
    assert "a normal picture has a mask with a defect (1 picture: a.png)" in row.notes
    trees.write(tmp_path / "set/manifest.csv", "path,label,mask\na.png,0,\nb.png,1,b_truth.png\n")
    assert row.values == zsad.evaluate("brightness", tmp_path / "set", "pixel_auroc", exact=True).rows[0].values


def test_unlabelled_sets_and_wrong_names_are_refused(tmp_path: Path, data: Path) -> None:
    trees.flat(tmp_path / "flat")
    with pytest.raises(UsageError, match="No label among 2 pictures of 'flat', so there is nothing to measure"):
        zsad.evaluate("brightness", tmp_path / "flat")
    with pytest.raises(UnknownName, match="No metric is called 'auroc'. Did you mean"):
        zsad.evaluate("brightness", data, "auroc")
    with pytest.raises(UsageError, match="No metric was named. Leave metrics out for the usual ones"):
        zsad.evaluate("brightness", data, [])
    with pytest.raises(UnknownName, match="No category of parts is called 'blot'. Did you mean 'bolt'"):
        zsad.evaluate("brightness", data, categories="blot")
    with pytest.raises(UnknownName, match="No split of parts is called 'val'"):
        zsad.evaluate("brightness", data, split="val")
    with pytest.raises(UsageError, match="keep_maps and resume need a folder: give out"):
        zsad.evaluate("brightness", data, keep_maps=True)
    with pytest.raises(UsageError, match="jobs is 0; give the number of processes, at least 1"):
        zsad.evaluate("brightness", data, jobs=0)


def test_problems_of_other_categories_do_not_count(own: Path) -> None:
    spoil(own)
    opened = open_dataset(own, split=None)
    assert problems_of(opened, ["nut"])[0] == ("empty: has no picture.",)
    bare = replace(opened, problems=("nut: none of its 5 anomalous pictures has a mask, so it has no pixel metrics.",))
    assert problems_of(bare, ["nut"]) == (bare.problems, False)


# ------------------------------------------------------------------ references
class Compared(Brightness):
    """Scores depend on the references' brightness, so that the draw shows in the ranking."""

    def prepare(self, name: str = "object", references: Any = None) -> Context:
        return Context(words=("left", "right"), banks=self.banks(references))

    def score(self, features: Any, context: Context) -> Any:
        found = super().score(features, context)
        level = float(context.banks["1"].rows.mean())
        return replace(found, pred_score=found.pred_score + 0.3 * torch.sin(1e4 * level * found.anomaly_map.mean((1, 2))))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(zsad.registry._methods, "compared", Compared)
    monkeypatch.setattr(Compared, "name", "compared")


@pytest.mark.usefixtures("compared")
def test_shots_come_from_the_train_split_by_seed(data: Path) -> None:
    found = zsad.evaluate("compared", data, shots=2, seeds=(0, 1, 2))
    assert [(row.category, row.seed) for row in found.rows] == [(c, s) for c in CATEGORIES for s in (0, 1, 2)]
    assert all(len(row.references) == 2 and row.references[0].startswith(f"{row.category}/train/good/") for row in found.rows)
    assert len({row.references for row in found.rows}) > 3
    assert all((row.normal, row.anomalous) == (7, 5) for row in found.rows)
    own = [row.values["image_auroc"] for row in found.rows if row.category == "nut"]
    assert len(set(own)) > 1
    assert found.figure("nut", "image_auroc") == pytest.approx((statistics.fmean(own), statistics.stdev(own), 3))
    means = [statistics.fmean(r.values["image_auroc"] for r in found.rows if r.seed == seed) for seed in (0, 1, 2)]
    assert found.mean("image_auroc") == pytest.approx((statistics.fmean(means), statistics.stdev(means), 2))
    assert f"{statistics.fmean(own):.3f} ± {statistics.stdev(own):.3f}" in found.to_markdown()
    assert "2 reference pictures per category, seeds 0, 1, 2. ± is the sample standard deviation over them." in found.remarks()
    kept = found.as_dict()["rows"][0]
    assert kept["references"] == list(found.rows[0].references)
    one = zsad.evaluate("compared", data, shots=1, seeds=[2], categories="bolt").rows[0]
    assert one.references == found.rows[2].references[:1]  # the shots of one are among those of two


@pytest.mark.usefixtures("compared")
def test_shots_without_a_train_split_leave_the_test(own: Path) -> None:
    for path in (own / "nut/train/good").iterdir():
        path.unlink()
    row = zsad.evaluate("compared", own, shots=3, categories="nut").rows[0]
    assert (row.normal, row.anomalous) == (4, 5)
    assert all(name.startswith("nut/test/good/") for name in row.references)
    assert "No normal picture of a train split: references were drawn from the tested ones and left out there." in row.notes


@pytest.mark.usefixtures("compared")
def test_references_that_cannot_be_read_are_passed_over_and_too_few_are_an_error(own: Path) -> None:
    first = zsad.evaluate("compared", own, shots=1, categories="nut").rows[0].references[0]
    (own / first).write_bytes(b"broken")
    row = zsad.evaluate("compared", own, shots=1, categories="nut").rows[0]
    assert row.references != (first,)
    assert any(note.startswith(f"As a reference passed over: '{first}' is no picture of a kind") for note in row.notes)
    for path in list((own / "nut/train/good").iterdir())[1:]:
        path.unlink(missing_ok=True)
    found = zsad.evaluate("compared", own, shots=2)
    assert found.rows[1].errors[0].startswith("nut: 2 references were asked for, and there ")
    assert math.isnan(found.rows[1].values["aupro"])
    assert found.mean("aupro").over == 1
    with pytest.raises(UsageError, match="No category can be evaluated. bolt: 99 references were asked for, and there are 6"):
        zsad.evaluate("compared", own, shots=99)


def test_shots_and_seeds_are_checked(data: Path) -> None:
    with pytest.raises(UsageError, match="shots is -1; give the number"):
        zsad.evaluate("compared", data, shots=-1)
    with pytest.raises(UsageError, match=r"seeds are \[1, 1\]; give at least one number, and none twice"):
        zsad.evaluate("compared", data, shots=1, seeds=(1, 1))


# ------------------------------------------------------------------ leakage
def test_data_that_the_weights_have_seen_is_refused_or_marked(tmp_path: Path) -> None:
    trees.mvtec(tmp_path / "mvtec_anomaly_detection")
    detector = Brightness(BrightnessBackbone())
    detector.header = {"trained_on": "MVTec AD, test split (CC BY-NC-SA 4.0)"}
    text = "brightness learned from 'MVTec AD, test split .*', and 'mvtec_anomaly_detection' is MVTec AD. Figures there are not"
    with pytest.raises(UsageError, match=text):
        zsad.evaluate(detector, tmp_path / "mvtec_anomaly_detection")
    found = zsad.evaluate(detector, tmp_path / "mvtec_anomaly_detection", allow_leakage=True)
    assert "bottle [LEAKED]" in found.to_markdown()
    assert found.remarks()[0].startswith("Leakage: brightness learned from")
    assert all(line["leakage"] == "True" for line in csv.DictReader(found.to_csv().splitlines()))
    (tmp_path / "mvtec_anomaly_detection").rename(tmp_path / "btad")
    assert not zsad.evaluate(detector, tmp_path / "btad").leakage


def test_one_picture_that_was_learned_from_is_enough(data: Path) -> None:
    detector = Brightness(BrightnessBackbone())
    digest = hashlib.sha256((data / "nut/test/good/003.png").read_bytes()).hexdigest()
    pictures = {"our own/1.png": "0" * 64, "our own/2.png": digest}  # as zsad.train writes it
    detector.header = {"data": [{"name": "our own", "categories": ["part"], "licence": "CC0-1.0", "pictures": pictures}]}
    with pytest.raises(UsageError, match="learned from 1 of the 24 pictures of 'parts': nut/test/good/003.png"):
        zsad.evaluate(detector, data)
    assert not zsad.evaluate(detector, data, categories="bolt").leakage


def test_unknown_training_data_is_noted(data: Path) -> None:
    detector = Brightness(BrightnessBackbone())
    assert not zsad.evaluate(detector, data).notes
    detector.learned = True  # type: ignore[misc]
    assert "learned from is not on record" in zsad.evaluate(detector, data).notes[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("MVTec AD (CC BY-NC-SA 4.0), VisA, CVC-ColonDB and CVC-ClinicDB", {"MVTec AD", "VisA", "CVC-ColonDB", "CVC-ClinicDB"}),
        ("VisA_20220922", {"VisA"}),
        ("mvtec_ad_2", {"MVTec AD 2"}),
        ("mvtec_loco_anomaly_detection", {"MVTec LOCO AD"}),
        ("KolektorSDD2", {"KolektorSDD2"}),
        ("synthetic defects on textures; advisable", set()),
    ],
)
def test_data_sets_are_recognised_in_sentences(text: str, names: set[str]) -> None:
    assert data_sets_in(text) == names


def test_data_sets_are_recognised_by_folder_layout_and_categories(tmp_path: Path) -> None:
    for layout, name in (("visa", "VisA"), ("ksdd2", "KolektorSDD2"), ("dagm", "DAGM")):
        assert identify(Dataset("x", tmp_path / "x", layout, ())) == {name}
    trees.mvtec(tmp_path / "renamed")
    assert identify(open_dataset(tmp_path / "renamed")) == {"MVTec AD"}
    assert identify(open_dataset(tmp_path / "renamed").select("bottle")) == set()


def test_every_published_checkpoint_names_data_that_is_recognised() -> None:
    for name, row in zsad.weights.checkpoints.load_index().items():
        made_up = name == "compact.synthetic" or row.trained_on.startswith("synthetic")  # drawn, and in no data set
        assert data_sets_in(row.trained_on) or made_up, name


# ------------------------------------------------------------------ processes
@pytest.mark.slow
def test_processes_give_the_same_rows(data: Path, tmp_path: Path) -> None:
    detector = Named(BrightnessBackbone())
    one = zsad.evaluate(detector, data, "image_auroc,pixel_ap", out=tmp_path / "one", keep_maps=True)
    two = zsad.evaluate(detector, data, "image_auroc,pixel_ap", out=tmp_path / "two", keep_maps=True, jobs=2)
    assert [row.as_dict() for row in one.rows] == [row.as_dict() for row in two.rows]
    for path in (tmp_path / "one").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert len(list((tmp_path / "two/maps").rglob("*.npy"))) == 24


@pytest.mark.slow
def test_an_error_in_a_process_arrives_as_its_sentence(data: Path) -> None:
    with pytest.raises(UsageError, match="image_size=30 is no multiple of the patch size 16 of nut"):
        zsad.evaluate(Failing(BrightnessBackbone()), data, "image_auroc", jobs=2)
    bound = Named(BrightnessBackbone())
    bound.note = lambda: None
    with pytest.raises(UsageError, match="cannot be handed to other processes .* Give the method by name, or jobs=1"):
        zsad.evaluate(bound, data, "image_auroc", jobs=2)


# ------------------------------------------------------------------ detector by name, built, or in an inspector
def test_name_detector_and_inspector_give_the_same(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(brightness, "load_backbone", lambda *a, **k: built.append(1) or BrightnessBackbone())
    monkeypatch.setitem(zsad.registry._backbones, "grey", lambda name, **_: built.append(1) or BrightnessBackbone())
    rows = zsad.evaluate("brightness", data, gain=2.0, batch_size=5).rows
    assert built == [1]  # one load for all categories
    detector = zsad.create("brightness", gain=2.0)
    assert zsad.evaluate(detector, data, batch_size=5).rows == rows
    assert zsad.evaluate(Inspector(detector, "part", threshold=0.1, batch_size=5), open_dataset(data)).rows == rows


# ------------------------------------------------------------------ the command
def test_the_command_prints_and_writes_its_tables(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call("--data", own, "--out", out, "--map-size", 48)
    assert done.exit_code == 0
    assert "parts: layout mvtec, 24 pictures, 2 categories." in done.output
    assert "i-AUROC" in done.output
    assert "p-AUROC@48" in done.output
    assert "Pixel metrics at 48 x 48 pixels, binned: exact values differ by at most" in done.output
    assert f"Written to {out}: metrics.csv, metrics.json, metrics.md" in done.output
    done = call("--data", own, "--out", tmp_path / "one", "--map-size", 48, "--categories", "nut")
    assert " pictures, 1 category." in done.output
    found = zsad.evaluate("brightness", own, map_size=48)
    lines = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [line["category"] for line in lines] == ["bolt", "nut", "mean"]
    assert [float(line["aupro"]) for line in lines[:2]] == [row.values["aupro"] for row in found.rows]
    assert float(lines[2]["image_ap"]) == found.mean("image_ap").mean
    assert {line["map_size"] for line in lines} == {"48"}
    kept = json.loads((out / "metrics.json").read_text())
    assert [row["values"] for row in kept["rows"]] == [dict(row.values) for row in found.rows]
    assert kept["about"]["versions"]["zsad"] == zsad.__version__
    assert kept["about"]["settings"]["method"] == "brightness"
    assert (out / "metrics.md").read_text() == found.to_markdown()
    assert not list(out.rglob("*.npy"))


def test_the_command_lists_errors_and_exits_with_three(own: Path, tmp_path: Path) -> None:
    spoil(own)
    for index in range(5, 20):
        noisy(own / "nut/test/crack" / f"{index:03d}.png", index)
    done = call("--data", own, "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "empty: has no picture." in done.output
    assert "  and 7 more\n" in done.output  # 1 missing mask in bolt, 15 in nut, 1 empty category: 17
    assert "'bolt/test/good/000.png' is no picture of a kind" in done.output
    assert "untested: has no picture to score." in done.output
    assert call("--data", own, "--out", tmp_path / "nut", "--categories", "nut", "--kinds", "good", "--json").exit_code == 3


def test_an_interrupt_names_resume(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(category, "image_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    done = call("--data", data, "--out", tmp_path / "out")
    assert done.exit_code == 130
    assert f"stopped. What is scored is kept in {tmp_path / 'out'}; give --resume to go on with it." in done.output


def test_json_alone_and_usage_in_a_sentence(data: Path, tmp_path: Path) -> None:
    done = call(
        "--data", data, "--out", tmp_path / "out", "--json", "--metrics", "image_auroc, image_ap", "--categories", "nut"
    )
    assert json.loads(done.stdout)["metrics"] == ["image_auroc", "image_ap"]
    for arguments, message in (
        (["--seeds", "1,x"], "--seeds takes whole numbers with commas between, such as 0,1,2; got '1,x'."),
        (["--set", "shots=2"], "--set shots was given, but that is an option: --shots."),
        (["--metrics", "auc"], "No metric is called 'auc'"),
        (["--out", " "], "--out is empty"),
        (["--out", tmp_path / "out"], "holds an evaluation already. Give --resume to go on with it"),
    ):
        done = call("--data", data, *arguments)
        assert done.exit_code == 2
        assert message in done.output


@pytest.mark.slow
def test_a_method_of_the_package_with_references(tmp_path: Path) -> None:
    options = ["--data", write_noisy_set(tmp_path / "few", 2, 2, 3), "--method", "compact", "--shots", "1", "--seeds", "3,4"]
    options += ["--set", "tower=small"]
    options += ["--categories", "nut", "--metrics", "image_f1_max,pixel_auroc", "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, ["evaluate", *map(str, options)])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "out/metrics.json").read_text())
    assert [row["seed"] for row in kept["rows"]] == [3, 4]
    assert kept["rows"][0]["references"] != kept["rows"][1]["references"]
    assert kept["rows"][0]["thresholds"] != kept["rows"][1]["thresholds"]
    assert "± is the sample standard deviation" in done.output
