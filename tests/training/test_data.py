"""Training data: unreadable pictures become error rows, features are cached, labels or normal pictures alone suffice."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import texture, write_set
from PIL import Image
from tiny_training import tiny

import zsad
from zsad.errors import UsageError
from zsad.synthetic.defects import DEFECTS
from zsad.training.cache import FeatureCache, stacked
from zsad.training.data import ExampleLoader, find_examples, load_examples, open_datasets
from zsad.types import Batch, ImageFeatures, Tap

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "parts")


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(data, tmp_path / "own"))


@pytest.fixture
def normal(tmp_path: Path) -> Path:
    """A flat folder of normal pictures."""
    rng = np.random.default_rng(3)
    (tmp_path / "normal").mkdir()
    for number in range(5):
        Image.fromarray(texture(rng, 96)).save(tmp_path / "normal" / f"{number}.png")
    return tmp_path / "normal"


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def errors(out: Path) -> dict[str, str]:
    found = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    return {row["picture"]: row["error"] for row in found}


def counted(detector: Any) -> list[int]:
    """Batch sizes of all later passes through the image encoder."""
    seen: list[int] = []
    detector.backbone.visual.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


# ------------------------------------------------------------------ the cache
@pytest.mark.slow
@pytest.mark.parametrize("method", ["anomalyclip", "april_gan"])
def test_the_backbone_runs_once_per_picture(data: Path, tmp_path: Path, method: str) -> None:
    runs = {}
    for name, cache in {"kept": tmp_path / "shared", "again": tmp_path / "shared", "none": False}.items():
        detector = tiny(method)
        runs[name] = counted(detector)
        zsad.train(detector, data, tmp_path / name, epochs=3, batch_size=4, cache=cache)
    assert {name: sum(seen) for name, seen in runs.items()} == {"kept": 16, "again": 0, "none": 48}
    assert losses(tmp_path / "kept") == losses(tmp_path / "again")
    first = slice(0, 2)  # later steps amplify rounding
    assert losses(tmp_path / "kept")[first] == pytest.approx(losses(tmp_path / "none")[first], rel=1e-6)
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "none"), rel=1e-3)


@pytest.mark.slow
def test_features_that_training_changes_are_not_cached(data: Path, tmp_path: Path) -> None:
    zsad.train(tiny("adaclip"), data, tmp_path / "run", epochs=1, batch_size=4, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_belongs_to_weights_and_arguments(tmp_path: Path) -> None:
    folders = {FeatureCache(tmp_path, tiny("anomalyclip")).folder, FeatureCache(tmp_path, tiny("anomalyclip", seed=4)).folder}
    assert len(folders) == 1  # encode does not use the prompts
    other = zsad.load_backbone("tiny", seed=1)
    variants = [
        FeatureCache(tmp_path, tiny("anomalyclip", taps=(6, 12))),
        FeatureCache(tmp_path, tiny("anomalyclip"), "bf16"),
        FeatureCache(tmp_path, tiny("april_gan")),
        FeatureCache(tmp_path, zsad.create("april_gan", backbone=other)),
    ]
    assert len(folders | {one.folder for one in variants}) == 5


@pytest.mark.slow
def test_a_broken_file_is_made_anew(data: Path, tmp_path: Path) -> None:
    zsad.train(tiny("april_gan"), data, tmp_path / "one", epochs=1, cache=tmp_path / "cache")
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 16
    files[0].write_bytes(files[0].read_bytes()[:100])
    files[1].write_bytes(files[1].read_bytes()[:-100])
    detector = tiny("april_gan")
    seen = counted(detector)
    zsad.train(detector, data, tmp_path / "two", epochs=1, cache=tmp_path / "cache")
    assert sum(seen) == 2
    assert losses(tmp_path / "one") == losses(tmp_path / "two")


def test_features_survive_the_disk(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def tap(side: int) -> Tap:
        return Tap(torch.randn(2, side * side, 3, generator=generator), (side, side), torch.randn(2, 3, generator=generator))

    whole = ImageFeatures(torch.randn(2, 5, generator=generator), {3: tap(4)}, {"local": {1: tap(2), 12: tap(3)}})
    cache = FeatureCache(tmp_path, tiny("april_gan"))
    for row in range(2):
        cache.write(f"key{row}", whole[row : row + 1])
    found = stacked([cache.read(f"key{row}") for row in range(2)])
    assert torch.equal(found.image, whole.image)
    pairs = [(found.taps[3], whole.taps[3])] + [(found.streams["local"][n], whole.streams["local"][n]) for n in (1, 12)]
    for one, other in pairs:
        assert one.grid == other.grid
        assert torch.equal(one.patches, other.patches)
        assert torch.equal(one.cls, other.cls)  # type: ignore[arg-type]


def test_a_cache_that_finds_no_room(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10))  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"features of 16 pictures take .* GB.*--no-cache"):
        zsad.train(tiny("april_gan"), data, tmp_path, epochs=1)


# ------------------------------------------------------------------ bad pictures
@pytest.mark.slow
@pytest.mark.parametrize("method", ["adaclip", "april_gan"])
def test_bad_pictures_and_masks_become_rows(own: Path, tmp_path: Path, method: str) -> None:
    (own / "nut/test/good/000.png").write_bytes(b"no picture")
    Image.new("L", (50, 40), 255).save(own / "nut/ground_truth/defect/001_mask.png")
    (own / "tile/ground_truth/defect/002_mask.png").unlink()
    header = zsad.train(tiny(method), own, tmp_path / "run", epochs=1)
    found = errors(tmp_path / "run")
    assert "cannot be decoded" in found["own/nut/test/good/000.png"] or "no picture" in found["own/nut/test/good/000.png"]
    assert "is 50 x 40 pixels, the picture 96 x 96" in found["own/nut/test/defect/001.png"]
    learns = header["data"][0]["pictures"]
    if method == "april_gan":
        assert "has no mask" in found["own/tile/test/defect/002.png"]
    assert len(found) == 3 - (method == "adaclip")
    assert len(learns) == 16 - len(found)
    assert not learns.keys() & found.keys()


@pytest.mark.slow
def test_a_mask_that_contradicts_its_label_becomes_a_row(own: Path, tmp_path: Path) -> None:
    name, empty, listed = "own/nut/test/defect/001.png", own / "nut/ground_truth/defect/001_mask.png", own / "manifest.csv"
    Image.new("L", (96, 96)).save(empty)
    header = zsad.train(tiny("april_gan"), own, tmp_path / "run", epochs=1)
    assert errors(tmp_path / "run") == {name: f"{name!r} is labelled anomalous and its mask is empty. Correct one of them."}
    assert len(header["data"][0]["pictures"]) == 15
    rows = ["nut/test/defect/000.png,0,nut/ground_truth/defect/000_mask.png", "tile/test/defect/000.png,1,"]
    rows += [f"tile/test/defect/00{n}.png,1,tile/ground_truth/defect/00{n}_mask.png" for n in (1, 2)]
    listed.write_text("\n".join(["path,label,mask", *rows]))
    zsad.train(tiny("april_gan"), listed, tmp_path / "again", epochs=1)
    assert "is labelled normal and has a mask with a defect" in errors(tmp_path / "again")["own/nut/test/defect/000.png"]


def test_defects_that_vanish_at_model_size_are_reported(own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = own / "nut/test/defect/000.png"
    Image.open(path).resize((800, 800)).save(path)
    dot = np.zeros((800, 800), np.uint8)
    dot[3, 3] = 255
    Image.fromarray(dot).save(own / "nut/ground_truth/defect/000_mask.png")
    with caplog.at_level(logging.WARNING, "zsad"):
        zsad.train(tiny("april_gan"), own, tmp_path / "run", epochs=1)
    assert "Defects too small to be seen at 80 pixels, so that their masks are empty there: 1 of 8" in caplog.text


def test_a_bad_picture_is_one_row_with_synthetic_defects_too(normal: Path, tmp_path: Path) -> None:
    (normal / "3.png").write_bytes(b"")
    header = zsad.train(tiny("april_gan"), normal, tmp_path / "run", epochs=1, synthetic=3)
    lines = (tmp_path / "run/errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["picture"] for line in lines] == ["normal/3.png"]
    assert header["examples"] == 16


def test_a_set_without_any_anomaly(own: Path, tmp_path: Path) -> None:
    for category in ("nut", "tile"):
        shutil.rmtree(own / category / "test/defect")
        shutil.rmtree(own / category / "ground_truth")
    with pytest.raises(UsageError, match=r"no anomalous picture to train on, among 8 that can be used.*--synthetic 1"):
        zsad.train(tiny("anomalyclip"), own, tmp_path / "run", epochs=1)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_changed_picture_is_another_run(own: Path, tmp_path: Path) -> None:
    zsad.train(tiny("april_gan"), own, tmp_path / "run", epochs=1)
    Image.fromarray(texture(np.random.default_rng(9), 96)).save(own / "nut/test/good/000.png")
    with pytest.raises(UsageError, match=r"with other settings: examples_sha256 was"):
        zsad.train(tiny("april_gan"), own, tmp_path / "run", epochs=2, resume=True)


# ------------------------------------------------------------------ labels alone
def labelled(root: Path) -> Path:
    """Brain-like: yes and no, without masks."""
    rng = np.random.default_rng(4)
    for kind in ("yes", "no"):
        (root / kind).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(texture(rng, 96)).save(root / kind / f"{number}.png")
    return root


@pytest.mark.parametrize(("method", "part"), [("anomalyclip", "picture"), ("adaclip", "image"), ("compact", "picture")])
def test_labels_alone_train_the_image_loss(tmp_path: Path, method: str, part: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "zsad"):
        zsad.train(tiny(method), labelled(tmp_path / "scans"), tmp_path / "run", epochs=1)
    assert "6 of 6 pictures train the image-level loss alone" in caplog.text
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(set(row) == {"epoch", "step", "loss", part} for row in steps if "step" in row)


def test_labels_alone_are_refused_where_masks_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"among 0 that can be used. 6 were left out.*april_gan learns from masks alone"):
        zsad.train(tiny("april_gan"), labelled(tmp_path / "scans"), tmp_path / "run", epochs=1)


def test_masked_and_unmasked_sets_train_together(data: Path, tmp_path: Path) -> None:
    zsad.train(tiny("anomalyclip"), [data, labelled(tmp_path / "scans")], tmp_path / "run", epochs=1, batch_size=4)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kinds = [tuple(sorted(set(row) - {"epoch", "step", "loss"})) for row in steps if "step" in row]
    assert kinds.count(("picture",)) == 2  # 6 pictures
    assert kinds.count(("map 12", "picture")) == 4  # 16 pictures


# ------------------------------------------------------------------ synthetic defects alone
@pytest.mark.slow
@pytest.mark.parametrize("method", ["adaclip", "anomalyclip", "april_gan", "compact"])
def test_normal_pictures_with_synthetic_defects_train_everything(normal: Path, tmp_path: Path, method: str) -> None:
    detector = tiny(method)
    before = {key: tensor.clone() for key, tensor in detector.learned_state().items()}
    header = zsad.train(detector, normal, tmp_path / "run", epochs=1, batch_size=5, synthetic=2)
    learned = detector.learned_state().keys() & {key for key, _ in detector.named_parameters()}
    after = detector.learned_state()
    assert {key for key in before if not torch.equal(before[key], after[key])} == learned - set(getattr(detector, "dead", ()))
    assert header["synthetic"] == 2
    assert header["examples"] == 15
    assert len(header["data"][0]["pictures"]) == 5


@pytest.mark.slow
def test_kinds_of_defects_reach_the_loss(data: Path, normal: Path, tmp_path: Path) -> None:
    """The folder's name, or the word of a synthetic defect; of normal pictures nothing."""
    batches: list[Batch] = []

    class Noting(type(tiny("april_gan"))):  # type: ignore[misc]
        def loss(self, batch: Batch, context: Any) -> Any:
            batches.append(batch)
            return super().loss(batch, context)

    for number, (source, synthetic, cache) in enumerate(
        [(data, 0, True), (data, 0, False), (normal, 2, True), (normal, 2, False)]
    ):
        batches.clear()
        detector = Noting(tiny("april_gan").backbone).eval()
        zsad.train(
            detector, source, tmp_path / str(number), epochs=1, batch_size=4, synthetic=synthetic, split=None, cache=cache
        )
        seen = [(int(label), kind) for batch in batches for label, kind in zip(batch.labels, batch.kinds, strict=True)]
        assert {kind for label, kind in seen if label == 0} == {""}
        defects = {kind for label, kind in seen if label == 1}
        assert defects == {"defect"} if source == data else len(defects) > 2
        assert defects <= {"defect", *DEFECTS}


@pytest.mark.slow
def test_compact_learns_words_that_folders_name(tmp_path: Path) -> None:
    data = write_set(tmp_path / "data", good=2, bad=2)
    zsad.train(tiny("compact"), data, tmp_path / "unnamed", epochs=1)
    for category in ("nut", "tile"):
        for place in ("test", "ground_truth"):
            (data / category / place / "defect").rename(data / category / place / "stain")
    zsad.train(tiny("compact"), data, tmp_path / "named", epochs=1)
    first = {name: json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("unnamed", "named")}
    assert first["unnamed"]["word"] == 0 < first["named"]["word"]


def test_synthetic_defects_are_seeded(normal: Path) -> None:
    backbone = zsad.load_backbone("tiny")

    def drawn(seed: int) -> list[tuple[Any, torch.Tensor, Any]]:
        examples, rows = find_examples(open_datasets(normal), 2)
        assert not rows
        return list(load_examples(examples, ExampleLoader(backbone, seed), rows))

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(one, again, strict=True))
    assert sum(torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)) == 5  # the pictures as they are
    for example, image, mask, _ in one:
        assert image.shape == (3, 80, 80)
        assert mask.shape == (80, 80)
        assert bool(mask.any()) == bool(example.label)
    as_is, first, second = (row[1] for row in one[:3])
    assert not torch.equal(first, second)
    differs = (as_is - first).abs().amax(0) > 1e-6
    assert differs[one[1][2].bool()].float().mean() > 0.9  # the mask is where the picture changed


def test_unlabelled_pictures_are_of_no_use_without_defects(normal: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"among 0 that can be used. 5 were left out.*has no label.*--synthetic 1"):
        zsad.train(tiny("april_gan"), normal, tmp_path / "run", epochs=1)
