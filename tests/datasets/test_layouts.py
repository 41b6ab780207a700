"""Every layout of tests/helpers/trees.py is recognised and read; what is malformed is named, and the rest is there."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import trees
from annotation_trees import ANNOTATED, OVER_FOLDERS
from trees import fill, mask, picture, write

from zsad.datasets import LAYOUTS, Count, Dataset, Sample, Shapes, open_dataset
from zsad.datasets.opening import matching_layouts
from zsad.errors import ImageError, MissingExtra, SourceNotFound, UnknownName, UsageError
from zsad.images.reading import load_image
from zsad.images.sources import ImageRef

TREES = trees.TREES | ANNOTATED


def rows(data: Dataset) -> list[trees.Row]:
    def below(path: Path) -> str:
        return path.relative_to(data.root).as_posix()

    def truth(sample: Sample) -> str | None:
        if isinstance(sample.mask, Shapes):
            return "boxes" if sample.boxes else "areas"
        return below(sample.mask) if sample.mask else None

    return [(below(s.path), s.label, truth(s), s.category, s.split, s.kind) for s in data]


def has_problem(data: Dataset, *parts: str) -> bool:
    """Whether exactly one problem has all these parts."""
    return sum(all(part in line for part in parts) for line in data.problems) == 1


def mvtec_tree(root: Path) -> Path:
    trees.mvtec(root)
    return root


# ---------------------------------------------------------------- every layout
@pytest.mark.parametrize("name", TREES)
def test_a_layout_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    layout, build = TREES[name]
    root = tmp_path / "the_set"
    expected = build(root)
    data = open_dataset(root, split=None)
    assert (data.layout, data.name, data.root) == (layout, "the_set", root)
    assert sorted(rows(data), key=str) == sorted(expected, key=str)
    masks_expected = LAYOUTS[layout].masks and any(label == 1 and not truth for _, label, truth, *_ in expected)
    problems = [text for text in data.problems if not text.startswith("pred: 1 pictures have no label")]  # Br35H's
    assert bool(problems) == masks_expected, problems
    assert all(sample.path.is_file() for sample in data)
    test = open_dataset(root)
    assert sorted(rows(test), key=str) == sorted((row for row in expected if row[4] == "test"), key=str)


@pytest.mark.parametrize("name", TREES)
def test_a_tree_matches_one_layout(name: str, tmp_path: Path) -> None:
    layout, build = TREES[name]
    build(tmp_path / "the_set")
    assert [one.name for one in matching_layouts(tmp_path / "the_set")] == [layout]
    if name not in {"meta"} | OVER_FOLDERS:  # lists a tree of another layout, and goes before it
        assert [one.name for one in LAYOUTS.values() if one.recognise(tmp_path / "the_set")] == [layout]


@pytest.mark.parametrize("name", sorted(TREES.keys() - {"flat"}))
def test_a_picture_beside_the_folders_changes_nothing(name: str, tmp_path: Path) -> None:
    layout, build = TREES[name]
    expected = build(tmp_path)
    picture(tmp_path / "overview.jpg")
    write(tmp_path / "._hidden.png", "of macOS")
    (tmp_path / "papers").mkdir()
    data = open_dataset(tmp_path, split=None)
    assert (data.layout, len(data)) == (layout, len(expected) + (layout == "beside"))  # there it is one more, without a mask


def test_folders_of_masks_are_no_pictures(tmp_path: Path) -> None:
    trees.one_category(tmp_path / "mvtec")
    mask(tmp_path / "mvtec" / "ground_truth" / "good" / "000_mask.png", 0)
    mask(tmp_path / "mvtec" / "ground_truth" / "overview.png")
    trees.mvtec2(tmp_path / "mvtec2")
    mask(tmp_path / "mvtec2" / "can" / "test_public" / "ground_truth" / "overview.png")
    for name, count in (("mvtec", 3), ("mvtec2", 2)):
        data = open_dataset(tmp_path / name)
        assert (data.layout, len(data)) == (name, count)


def test_every_layout_has_a_tree() -> None:
    assert {layout for layout, _ in TREES.values()} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("visa", "split_csv/2cls_fewshot.csv", 1),
        ("meta", "meta.json", 8),
        ("manifest_csv", "manifest.csv", 3),
        ("manifest_jsonl", "manifest.jsonl", 3),
        ("real_iad", "realiad_jsons/realiad_jsons/audiojack.json", 2),
        ("real_iad", "realiad_jsons/realiad_jsons_sv", 1),
    ],
)
def test_a_list_is_opened_by_its_path(name: str, file: str, count: int, tmp_path: Path) -> None:
    layout, build = TREES[name]
    expected = build(tmp_path)
    data = open_dataset(tmp_path / file, split=None)
    assert (data.layout, data.root, len(data)) == (layout, tmp_path, count)
    assert set(rows(data)) <= set(expected)


def test_relative_paths_and_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.real_iad(tmp_path / "realiad")
    trees.one_category(tmp_path / "bottle")
    monkeypatch.chdir(tmp_path / "realiad" / "realiad_jsons" / "realiad_jsons")
    assert len(open_dataset("audiojack.json", split=None)) == 2
    monkeypatch.chdir(tmp_path / "bottle")
    assert (open_dataset(".").name, open_dataset(".").categories) == ("bottle", ("bottle",))


def test_views_of_a_specimen(tmp_path: Path) -> None:
    trees.real_iad(tmp_path)
    assert [sample.view for sample in open_dataset(tmp_path, split=None)] == ["C1", "C5"]


def test_several_resolutions_are_a_problem(tmp_path: Path) -> None:
    trees.real_iad(tmp_path)
    (tmp_path / "realiad_256").mkdir()
    data = open_dataset(tmp_path, split=None)
    assert has_problem(data, "realiad_1024: taken of realiad_1024, realiad_256")
    assert len(data) == 2


def test_classes_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    trees.dagm(tmp_path)
    assert open_dataset(tmp_path).categories == ("Class2", "Class10")


# ---------------------------------------------------------------- Dataset
def test_summary_and_selection(tmp_path: Path) -> None:
    data = open_dataset(mvtec_tree(tmp_path), split=None)
    os.remove(tmp_path / "bottle/ground_truth/crack/001_mask.png")  # noqa: PTH107
    test = open_dataset(tmp_path)
    assert test.summary() == [Count("bottle", 1, 2, 0, 1, 1), Count("metal_nut", 1, 2, 0, 2, 0)]
    assert test.problems == ("bottle/test/crack/001.png: is anomalous and has no mask.",)
    assert data.categories == ("bottle", "metal_nut")
    some = data.select(categories="metal_nut", split="test", kinds=["good"])
    assert [data.name_of(sample) for sample in some] == ["metal_nut/test/good/000.png"]
    assert len(data.select()) == len(data) == 8
    with pytest.raises(UnknownName, match="No category of .* is called 'metal-nut'. Did you mean 'metal_nut'"):
        data.select("metal-nut")
    with pytest.raises(UnknownName, match="No split of .* Known: test, train"):
        data.select(split="val")


# ---------------------------------------------------------------- what does not open
def test_unknown_layout_shows_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "stuff" / "more").mkdir(parents=True)
    write(tmp_path / "stuff" / "notes.txt", "")
    with pytest.raises(UsageError) as caught:
        open_dataset(tmp_path / "stuff")
    text = str(caught.value)
    assert "is of no known layout. It holds: more/, notes.txt. Known layouts:" in text
    assert all(f"\n  {layout.name}: {layout.expected}" in text for layout in LAYOUTS.values())
    mvtec_tree(tmp_path / "data" / "deep" / "mvtec")
    with pytest.raises(UsageError, match="Did you mean '.*mvtec'"):
        open_dataset(tmp_path / "data" / "deep")
    with pytest.raises(SourceNotFound, match="There is no data set at"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(UsageError, match="is of no known layout. It is a file"):
        open_dataset(tmp_path / "stuff" / "notes.txt")


def test_a_layout_by_name(tmp_path: Path) -> None:
    trees.meta(tmp_path)
    assert open_dataset(tmp_path).layout == "meta"
    assert open_dataset(tmp_path, layout="mvtec").layout == "mvtec"
    with pytest.raises(UnknownName, match="No layout is called 'mvtek'. Did you mean 'mvtec'"):
        open_dataset(tmp_path, layout="mvtek")
    with pytest.raises(UsageError, match="is not of the layout 'ksdd2', which is: train and test, of 10000.png"):
        open_dataset(tmp_path, layout="ksdd2")


def test_two_lists_ask_for_a_choice(tmp_path: Path) -> None:
    trees.meta(tmp_path)
    trees.manifest_csv(tmp_path)
    with pytest.raises(UsageError, match="fits the layouts 'meta' and 'manifest'. Choose one: layout='meta'"):
        open_dataset(tmp_path)
    trees.manifest_jsonl(tmp_path)
    with pytest.raises(UsageError, match="holds manifest.csv and manifest.jsonl"):
        open_dataset(tmp_path, layout="manifest")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no picture of split 'val'. Its splits: train \(2\), test \(6\)"):
        open_dataset(mvtec_tree(tmp_path), split="val")


def test_masks_among_pictures_are_not_scored_as_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    mask(tmp_path / "1_GT.png")
    assert [(one.path.name, one.label) for one in open_dataset(tmp_path)] == [("1.png", 1)]
    picture(tmp_path / "more" / "2.png")
    with pytest.raises(UsageError, match="no known layout"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- malformed sets: named, and the rest is there
def test_missing_masks(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    for name in ("000", "001"):
        (tmp_path / f"bottle/ground_truth/crack/{name}_mask.png").unlink()
    (tmp_path / "metal_nut/ground_truth/crack/000_mask.png").unlink()
    data = open_dataset(tmp_path)
    assert data.problems == (
        "bottle: none of its 2 anomalous pictures has a mask, so it has no pixel metrics.",
        "metal_nut/test/crack/000.png: is anomalous and has no mask.",
    )
    assert len(data) == 6
    assert [sample.mask is None for sample in data if sample.label] == [True, True, True, False]


def test_masks_are_matched_by_stem_never_by_order(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    truth = tmp_path / "bottle/ground_truth/crack"
    (truth / "000_mask.png").unlink()  # by order, 001's mask would now be 000's
    mask(truth / "777_mask.png")
    data = open_dataset(tmp_path)
    found = {sample.path.name: sample.mask for sample in data if sample.category == "bottle" and sample.label}
    assert found == {"000.png": None, "001.png": truth / "001_mask.png"}
    assert has_problem(data, "bottle/ground_truth/crack/777_mask.png: 1 mask(s) in its folder fit no picture")


def test_two_masks_for_a_picture_and_two_pictures_for_a_mask(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    mask(tmp_path / "bottle/ground_truth/crack/000.bmp")
    picture(tmp_path / "metal_nut/test/crack/001.jpg")
    data = open_dataset(tmp_path)
    assert has_problem(data, "bottle/test/crack/000.png: 2 masks fit it (000.bmp, 000_mask.png), so none is used")
    for name in ("001.png", "001.jpg"):
        assert has_problem(data, f"metal_nut/test/crack/{name}: its mask 001_mask.png fits 2 pictures")
    assert [sample.mask is not None for sample in data if sample.label] == [False, True, True, False, False]


def test_an_empty_category(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    (tmp_path / "screw" / "test" / "good").mkdir(parents=True)
    fill(tmp_path, [("pill/train/good/0.png", 0, None, "pill", "train", "good")])
    data = open_dataset(tmp_path)
    assert data.problems == ("pill: has no picture of split 'test'.", "screw: has no picture of split 'test'.")
    assert data.categories == ("bottle", "metal_nut")
    assert "screw: has no picture." in open_dataset(tmp_path, split=None).problems


def test_an_unreadable_picture_stays_for_its_error_row(tmp_path: Path) -> None:
    mvtec_tree(tmp_path)
    write(tmp_path / "bottle/test/good/000.png", "not a picture")
    data = open_dataset(tmp_path)
    assert len(data) == 6
    broken = []
    for sample in data:
        try:
            load_image(ImageRef(data.name_of(sample), sample.path))
        except ImageError as error:
            broken.append(str(error))
    assert len(broken) == 1
    assert "bottle/test/good/000.png" in broken[0]


def test_a_set_that_is_labelled_by_masks_with_bad_ones(tmp_path: Path) -> None:
    trees.ksdd(tmp_path)
    picture(tmp_path / "kos02" / "Part0.jpg")
    picture(tmp_path / "kos02" / "Part1.jpg")
    write(tmp_path / "kos02" / "Part1_label.bmp", "no bitmap")
    data = open_dataset(tmp_path)
    assert has_problem(data, "kos02/Part0.jpg: has no mask, and in this layout the mask is the label: taken as unlabelled")
    assert has_problem(data, "kos02/Part1.jpg: taken as unlabelled. A mask cannot be read: 'Part1_label.bmp'")
    assert [sample.label for sample in data] == [0, 1, None, None]


def test_mtd_without_pictures_of_a_kind(tmp_path: Path) -> None:
    trees.mtd(tmp_path)
    (tmp_path / "MT_Fray" / "Imgs").mkdir(parents=True)
    data = open_dataset(tmp_path)
    assert has_problem(data, "MT_Fray/Imgs: holds no JPEG picture")
    assert len(data) == 2


def test_rows_that_are_wrong_are_named(tmp_path: Path) -> None:
    good = {"path": "a.png", "label": 1, "mask": "m.png"}
    picture(tmp_path / "a.png")
    mask(tmp_path / "m.png")
    bad = [{"path": 5}, {"path": "gone.png", "label": 0}, {"path": "a.png", "label": "perhaps"}, good | {"mask": "gone.png"}]
    write(tmp_path / "manifest.jsonl", "\n".join(json.dumps(row) for row in [good, *bad]))
    data = open_dataset(tmp_path)
    assert has_problem(data, "manifest.jsonl line 2: 5 is no path")
    assert has_problem(data, "manifest.jsonl line 3: there is no file 'gone.png'")
    assert has_problem(data, "manifest.jsonl line 4: the label 'perhaps' is neither 0 (normal) nor 1 (anomalous)")
    assert has_problem(data, "manifest.jsonl line 5: there is no file 'gone.png'")
    assert has_problem(data, "a.png: is listed 3 times (test, test, test)")
    assert [(sample.label, sample.mask is not None) for sample in data] == [(1, True), (0, False), (None, False), (1, False)]


def test_a_picture_in_train_and_test_is_a_problem(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    write(tmp_path / "manifest.csv", "path,label,split\na.png,0,train\na.png,0,test\n")
    assert has_problem(open_dataset(tmp_path), "a.png: is listed 2 times (train, test)")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("meta.json", "{", "meta.json' is no JSON"),
        ("meta.json", "[]", "holds a list, not an object"),
        (
            "meta.json",
            '{"val": {}}',
            "needs the keys 'train' and 'test' with objects of lists by category; it has val",
        ),
        ("meta.json", '{"test": []}', "needs the keys 'train' and 'test' with objects of lists"),
        (
            "meta.json",
            '{"test": {"a": [{}]}}',
            r"that can be used. meta.json test/a row 0: is no object with 'img_path'",
        ),
        ("manifest.csv", "file,label\na.png,0\n", "'manifest.csv' needs a header with the column 'path'; it has file, label"),
        ("manifest.csv", "", "needs a header with the column 'path'; it has none"),
        ("manifest.csv", "path\n" + "x" * 200_000, "cannot be read as CSV at line"),
        ("manifest.csv", "path\n", "lists no picture that can be used"),
        ("manifest.jsonl", '{"path": "a"}\nx', "'manifest.jsonl' line 2 is no JSON"),
        ("manifest.jsonl", '["a"]', "line 1 is no object with the key 'path'"),
        ("realiad_jsons/toy.json", '{"test": []}', "Real-IAD's pictures are not beside"),
        ("labels.csv", "images/a.png 1.0 mono\nimages/b.png x mono\n", "is no list of ELPV"),
    ],
)
def test_a_list_that_cannot_be_read(file: str, text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / file, text)
    with pytest.raises(UsageError, match=message):
        open_dataset(tmp_path)


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text"):
        open_dataset(tmp_path)


# ---------------------------------------------------------------- no path from outside is trusted
def test_lists_do_not_lead_out_of_their_folder(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside.png", tmp_path / "set"
    picture(outside)
    picture(root / "in.png")
    (root / "link.png").symlink_to(outside)
    wild = ["../outside.png", "sub/../../outside.png", "..\\outside.png", str(outside), "link.png", "a\0b.png"]
    inner = ["in.png", "sub/../in.png", str(root / "in.png")]
    items = [{"img_path": name, "mask_path": "", "anomaly": 0} for name in [*wild, *inner]]
    items.append({"img_path": "in.png", "mask_path": "../outside.png", "anomaly": 1})
    write(root / "meta.json", json.dumps({"test": {"part": items}}))
    data = open_dataset(root)
    for number in range(len(wild)):
        assert has_problem(data, f"meta.json test/part row {number}: ", "leads out of 'set': refused")
    assert has_problem(data, "row 9: '../outside.png' leads out of 'set': refused")
    assert [sample.path.resolve() for sample in data] == [(root / "in.png").resolve()] * 4
    assert data.samples[-1].mask is None


def test_only_a_manifest_may_name_absolute_paths(tmp_path: Path) -> None:
    picture(tmp_path / "outside.png")
    mask(tmp_path / "truth.png")
    lines = [f"{tmp_path / 'outside.png'},1,{tmp_path / 'truth.png'}", "../outside.png,1,", "../outside.png,0,"]
    write(tmp_path / "set" / "manifest.csv", "\n".join(["path,label,mask", *lines]))
    data = open_dataset(tmp_path / "set")
    assert [(sample.path, sample.mask) for sample in data] == [(tmp_path / "outside.png", tmp_path / "truth.png")]
    assert has_problem(data, "manifest.csv line 3: '../outside.png' leads out")
    assert has_problem(data, "manifest.csv line 4: '../outside.png' leads out")
    assert data.name_of(data.samples[0]) == (tmp_path / "outside.png").as_posix()


# ---------------------------------------------------------------- ELPV, the real one
def test_elpv_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.datasets.elpv.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'zsad\[bench\]'"):
        open_dataset("elpv")


@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="elpv-dataset (the extra bench) is not installed")
def test_elpv_is_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_dataset("elpv")
    assert (data.name, data.layout, len(data), data.problems) == ("elpv", "elpv", 2624, ())
    assert data.summary() == [Count("mono", 588, 486, 0, 0, 486), Count("poly", 920, 630, 0, 0, 630)]
    assert data.prompt_name("mono") == "solar cell"
    clear = open_dataset("elpv:poly").select(kinds=("good", "defective"))
    assert [sample.label for sample in clear].count(1) == 402
    assert len(clear) == 920 + 402
    trees.good_bad(tmp_path / "elpv")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("elpv").layout == "good_bad"  # a folder of that name goes first
