"""Names and depths of folders: every picture is used, asked about, or counted as left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from brightness import registered_methods  # noqa: F401
from trees import mask, picture
from typer.testing import CliRunner

from zsad.cli import app
from zsad.datasets import Dataset, open_dataset
from zsad.datasets.words import plain, role_of, split_of
from zsad.errors import UsageError


def made(root: Path, **folders: int) -> Path:
    for number, (folder, count) in enumerate(folders.items()):
        for index in range(count):
            picture(root / folder.replace("__", "/") / f"p{number}{index}.png")
    return root


def by_label(data: Dataset) -> dict[int | None, int]:
    return {label: sum(one.label == label for one in data) for label in (0, 1, None)}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("good", "normal"),
        ("OK", "normal"),
        ("normal_test", "normal"),
        ("Train Good", "normal"),
        ("abnormal", "anomalous"),
        ("NG", "anomalous"),
        ("ground-truth", "mask"),
        ("GroundTruth", "mask"),
        ("mask_dir", "mask"),
        ("bad_masks", "mask"),
        ("labels", "mask"),
        ("unlabeled", "unlabelled"),
        ("scratch", ""),
        ("faulty_imprint", ""),
        ("logical_anomalies", ""),
        ("missing_label", ""),
    ],
)
def test_what_a_folder_holds(name: str, role: str) -> None:
    assert role_of(name) == role


def test_words_are_compared_without_case_and_spelling() -> None:
    assert plain(" Ground Truth.v2 ") == "ground_truth_v2"
    assert [split_of(one) for one in ("TEST", "Testing", "val", "Training", "", "holdout")] == [
        *("test", "test", "validation", "train", "test", "holdout")
    ]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"normal": 3, "abnormal": 2, "normal_test": 3, "mask": 2}, {0: 6, 1: 2, None: 0}),
        ({"normal": 3, "abnormal": 2, "mask_dir": 2}, {0: 3, 1: 2, None: 0}),
        ({"good": 3, "bad": 2, "ground-truth": 2}, {0: 3, 1: 2, None: 0}),
        ({"good": 3, "bad": 2, "labels": 2}, {0: 3, 1: 2, None: 0}),
        ({"Good": 3, "deep_scratch": 2, "Crack": 1}, {0: 3, 1: 3, None: 0}),
    ],
)
def test_masks_and_more_normal_pictures_are_no_defects(
    folders: dict[str, int], expected: dict[int | None, int], tmp_path: Path
) -> None:
    assert by_label(open_dataset(made(tmp_path / "set", **folders))) == expected


def test_what_has_no_label_is_counted_as_left_out(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "set", good=3, bad=2, unlabeled=3))
    assert by_label(data) == {0: 3, 1: 2, None: 0}
    assert "unlabeled: 3 pictures have no label and are left out, the first is p20.png." in data.problems


def test_an_unknown_folder_is_asked_about(tmp_path: Path) -> None:
    root = made(tmp_path / "set", good=3, bad=2, line7=4)
    with pytest.raises(UsageError, match=r"has the folder 'bad' and beside it line7 \(4 pictures\).*--kind line7=anomalous"):
        open_dataset(root)
    for role, expected in (("anomalous", (3, 6)), ("normal", (7, 2)), ("ignore", (3, 2)), ("mask", (3, 2))):
        data = open_dataset(root, roles={"Line7": role})
        assert (by_label(data)[0], by_label(data)[1]) == expected, role
        assert not any("left out" in text for text in data.problems)
    with pytest.raises(
        UsageError, match="A folder holds one of normal, anomalous, mask, ignore; 'line7' was given as 'rubbish'"
    ):
        open_dataset(root, roles={"line7": "rubbish"})


@pytest.mark.usefixtures("registered_methods")
def test_evaluate_takes_what_folders_hold(tmp_path: Path) -> None:
    root = made(tmp_path / "set", good=3, bad=2, line7=4)
    words = ["evaluate", "--method", "brightness", "--data", str(root), "--metrics", "image_auroc"]
    asked = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "a")])
    assert (asked.exit_code, "--ignore line7" in " ".join(asked.output.split())) == (2, True)
    for number, more in enumerate((["--ignore", "line7"], ["--kind", "line7=normal"])):
        done = CliRunner().invoke(app, [*words, *more, "--out", str(tmp_path / f"b{number}")])
        assert "layout good_bad" in done.output, done.output
    wrong = CliRunner().invoke(app, [*words, "--kind", "line7", "--out", str(tmp_path / "c")])
    assert "--kind takes NAME=anomalous, normal or mask" in wrong.output


def test_pictures_in_subfolders_are_used(tmp_path: Path) -> None:
    data = open_dataset(made(tmp_path / "set", good=2, good__line2=2, bad=2, bad__more__deep=2))
    assert by_label(data) == {0: 4, 1: 4, None: 0}
    assert {one.kind for one in data} == {"good", "good/line2", "bad", "bad/more/deep"}
    tree = {
        "nut__train__good": 2,
        "nut__test__good": 2,
        "nut__test__crack__deep": 2,
        "nut__test__hole": 1,
        "nut__test__hole__more": 3,
    }
    data = open_dataset(made(tmp_path / "mvtec", **tree), split=None)
    assert (data.layout, len(data), by_label(data)[1]) == ("mvtec", 10, 6)
    assert {one.kind for one in data} == {"good", "crack", "hole"}


def test_masks_of_subfolders_are_found(tmp_path: Path) -> None:
    root = made(tmp_path / "set", good=1, bad=1, bad__more=1)
    mask(root / "masks" / "p10.png")
    mask(root / "masks" / "more" / "p20.png")
    data = open_dataset(root)
    assert {one.kind: one.mask is not None for one in data} == {"good": False, "bad": True, "bad/more": True}
    tree = {"test__good": 1, "test__hole": 1, "test__hole__more": 1}
    root = made(tmp_path / "nut", **tree)
    mask(root / "ground_truth" / "hole" / "p10_mask.png")
    mask(root / "ground_truth" / "hole" / "more" / "p20_mask.png")
    assert sum(one.mask is not None for one in open_dataset(root)) == 2


def test_mvtec_in_capitals(tmp_path: Path) -> None:
    root = made(tmp_path / "Nut", Train__Good=2, Test__Good=1, Test__Crack=1)
    mask(root / "Ground_Truth" / "Crack" / "p20_mask.png")
    data = open_dataset(root, split=None)
    assert (data.layout, by_label(data), data.problems) == ("mvtec", {0: 3, 1: 1, None: 0}, ())
    assert [one.split for one in data].count("train") == 2
    assert next(one for one in data if one.label).mask is not None


def test_what_a_layout_does_not_read_is_counted(tmp_path: Path) -> None:
    root = made(tmp_path / "nut", train__good=2, test__good=1, test__crack=1, old__photos=5)
    picture(root / "stray.png")
    problems = open_dataset(root).problems
    assert "old/photos: 5 pictures are not part of the layout 'mvtec' and are left out, the first is p30.png." in problems
    assert any("1 pictures are not part of the layout 'mvtec'" in text and "stray.png" in text for text in problems)


def test_a_list_counts_what_it_does_not_list(tmp_path: Path) -> None:
    made(tmp_path, shots=3)
    (tmp_path / "manifest.csv").write_text("path,label,split\nshots/p00.png,NOK,Test\nshots/p01.png,OK,TEST\n")
    data = open_dataset(tmp_path)
    assert [(one.label, one.split) for one in data] == [(1, "test"), (0, "test")]
    assert "shots: 1 pictures are not listed, the first is p02.png." in data.problems
