"""References in the inspector and on the command line: added, removed, saved, left out; one encoder pass serves them all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_methods import on_tiny_tower, shallow
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.errors import UsageError
from zsad.images.reading import digest_of, list_images
from zsad.inference.inspector import Inspector
from zsad.inference.reference_set import ReferenceSet
from zsad.types import References

SIDE = 64
SMALL = ["--set", "tower=small"]
CALIBRATE = ["calibrate", *SMALL]


def texture(seed: int, defect: bool = False) -> np.ndarray[Any, Any]:
    """A striped picture of its own phase; a defect is a bright square."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIDE)
    stripes = 110 + 60 * np.sin((x + rng.integers(20)) / 3.0)
    rgb = np.repeat((stripes[None, :, None] + rng.normal(0, 6, (SIDE, SIDE, 1))), 3, axis=2)
    if defect:
        rgb[20:36, 24:40] = 250 - 200 * rng.random((16, 16, 1))
    return rgb.clip(0, 255).astype(np.uint8)


def write(folder: Path, *pictures: np.ndarray[Any, Any]) -> Path:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index, rgb in enumerate(pictures):
        Image.fromarray(rgb).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def compact() -> Any:
    """Of one small tower, which takes half the time of the two."""
    return zsad.create("compact", tower="small")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(tmp_path / "good", *(texture(seed) for seed in range(4)))


def scores(inspector: Inspector, *pictures: np.ndarray[Any, Any]) -> list[float]:
    return [float(result.pred_score or 0) for result in inspector(list(pictures))]


# ------------------------------------------------------------------ every method takes references
@pytest.mark.slow
@pytest.mark.parametrize("method", zsad.list_methods())
def test_every_method_takes_references(method: str, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow(monkeypatch)
    torch.manual_seed(0)
    detector = on_tiny_tower(method, 80)
    detector.trained = True
    count = min(4, detector.most_references or 4)
    with_references = Inspector(detector, "gasket", references=sorted(good.iterdir())[:count])
    pictures = [texture(seed, seed % 5 == 1) for seed in range(10, 16)]
    found = list(with_references(pictures))
    assert [result.error for result in found] == [None] * 6
    assert np.isfinite([result.pred_score for result in found]).all()
    assert all(result.anomaly_map is not None and result.anomaly_map.shape == (SIDE, SIDE) for result in found)
    others = [texture(seed) for seed in range(20, 20 + detector.needs_references)] or None  # where it scores with some alone
    plain = scores(Inspector(detector, "gasket", references=others), *pictures)
    assert not np.allclose(plain, [float(result.pred_score or 0) for result in found], atol=1e-6), "references changed nothing"
    assert with_references.describe()["references"]["count"] == count


@pytest.mark.slow
def test_references_help_and_their_order_does_not_matter(compact: Any) -> None:
    refs = [texture(seed) for seed in range(4)]
    normal, bad = [texture(seed) for seed in range(20, 26)], [texture(seed, True) for seed in range(30, 36)]
    inspector = Inspector(compact, "stripes", references=refs)
    found = scores(inspector, *normal, *bad)
    assert min(found[6:]) > max(found[:6])
    turned = Inspector(compact, "stripes", references=refs[::-1])
    assert scores(turned, *normal, *bad) == found


# ------------------------------------------------------------------ without a refit
@pytest.mark.slow
def test_added_and_removed_equals_made_anew(compact: Any) -> None:
    refs, pictures = [texture(seed) for seed in range(4)], [texture(8), texture(9, True)]
    inspector = Inspector(compact, "stripes", references=refs[:2])
    assert inspector.references.names == ("0000000", "0000001")
    added = inspector.add_references(refs[1:])
    assert len(added) == 2  # one was there already
    assert len(inspector.references) == 4
    assert scores(inspector, *pictures) == scores(Inspector(compact, "stripes", references=refs), *pictures)
    with pytest.raises(UsageError, match="'nobody' is no reference"):
        inspector.remove_references("nobody")


@pytest.mark.slow
def test_saved_and_read_back(compact: Any, good: Path, tmp_path: Path) -> None:
    inspector = Inspector(compact, "stripes", references=good)
    inspector.save_references(tmp_path / "refs.zsad")
    before = {path.name: path.read_bytes() for path in (tmp_path / "refs.zsad").iterdir()}
    again = Inspector(compact, "stripes", references=tmp_path / "refs.zsad")
    assert scores(again, texture(9, True)) == scores(inspector, texture(9, True))
    again.remove_references("00.png", "01.png")
    assert {path.name: path.read_bytes() for path in (tmp_path / "refs.zsad").iterdir()} == before
    again.save_references(tmp_path / "refs.zsad")
    assert ReferenceSet.load(tmp_path / "refs.zsad").names == ("02.png", "03.png")
    assert len(list((tmp_path / "refs.zsad").glob("*.safetensors"))) == 2
    again.remove_references("02.png", "03.png")
    assert again.describe()["references"] is None
    assert scores(again, texture(9)) == scores(Inspector(compact, "stripes"), texture(9))


def test_another_judge_is_refused(compact: Any, good: Path, tmp_path: Path) -> None:
    Inspector(compact, "stripes", references=good).save_references(tmp_path / "refs.zsad")
    with pytest.raises(
        UsageError,
        match=r"another detector: geometry\.overlap was null and is 0\.25; geometry\.tile was null and is \[32, 32\]\. Use",
    ):
        Inspector(compact, "stripes", references=tmp_path / "refs.zsad", tile=32)
    with pytest.raises(UsageError, match="method was"):
        Inspector("musc", backbone="compact", references=tmp_path / "refs.zsad")


def test_folders_of_earlier_versions_are_read(compact: Any, good: Path, tmp_path: Path) -> None:
    """Their index calls the detector "judge"."""
    inspector = Inspector(compact, "stripes", references=good)
    inspector.save_references(tmp_path / "refs.zsad")
    index = json.loads((tmp_path / "refs.zsad" / "references.json").read_text())
    assert list(index) == ["format", "detector", "references"]
    old = {"format": index["format"], "judge": index["detector"], "references": index["references"]}
    (tmp_path / "refs.zsad" / "references.json").write_text(json.dumps(old))
    again = Inspector(compact, "stripes", references=tmp_path / "refs.zsad")
    assert again.describe() == inspector.describe()
    with pytest.raises(UsageError, match="another detector: geometry"):
        Inspector(compact, "stripes", references=tmp_path / "refs.zsad", tile=32)


@pytest.mark.slow
def test_damaged_folders_are_refused(compact: Any, good: Path, tmp_path: Path) -> None:
    saved = tmp_path / "refs.zsad"
    Inspector(compact, "stripes", references=good).save_references(saved)
    torn = next(saved.glob("*.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(UsageError, match="is missing or damaged"):
        ReferenceSet.load(saved)
    index = json.loads((saved / "references.json").read_text())
    index["references"][0]["sha256"] = "../../../etc/passwd"
    (saved / "references.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match="is damaged"):
        ReferenceSet.load(saved)
    (saved / "references.json").write_text("[]")
    with pytest.raises(UsageError, match="no folder of saved references"):
        ReferenceSet.load(saved)
    with pytest.raises(UsageError, match="holds something that is no set of references"):
        Inspector(compact, "stripes", references=good).save_references(good)


def test_an_unreadable_reference_is_told_and_left_out(compact: Any, good: Path, tmp_path: Path) -> None:
    (good / "broken.png").write_bytes(b"no picture")
    inspector = Inspector(compact, "stripes", references=good)
    assert len(inspector.references) == 4
    assert list(inspector.references.errors) == ["broken.png"]
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(good / "broken.png", only)
    with pytest.raises(UsageError, match=r"No reference could be read; broken\.png: "):
        Inspector(compact, "stripes", references=only)


# ------------------------------------------------------------------ one pass
@pytest.mark.slow
def test_one_pass_serves_names_references_thresholds_and_scorings(compact: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = type(compact).encode
    monkeypatch.setattr(type(compact), "encode", lambda self, images: calls.append(len(images)) or encode(self, images))
    inspector = Inspector(compact, "stripes", threshold=0.5)
    encoded = inspector.encode([texture(seed, seed > 12) for seed in range(10, 15)])
    assert sum(calls) == 5
    plain = list(inspector.rescore(encoded))
    named = list(inspector.rescore(encoded, "zebra"))
    inspector.thresholds = zsad.Thresholds(anomalous=-5.0)
    assert {result.pred_label for result in inspector.rescore(encoded)} == {"anomalous"}
    assert [result.pred_score for result in named] == [result.pred_score for result in plain]  # compact reads no name
    assert sum(calls) == 5
    inspector.add_references([texture(0), texture(1)])
    assert sum(calls) == 7  # the references' own pass
    rescored = list(inspector.rescore(encoded))
    inspector.remove_references("0000000")
    assert (
        [r.pred_score for r in inspector.rescore(encoded)] != [r.pred_score for r in rescored] != [r.pred_score for r in plain]
    )
    assert sum(calls) == 7
    direct = scores(inspector, *(texture(seed, seed > 12) for seed in range(10, 15)))
    assert [r.pred_score for r in inspector.rescore(encoded)] == pytest.approx(direct, abs=1e-5)
    assert [r.pred_score for r in inspector.judge(encoded)] == pytest.approx(direct, abs=1e-5)  # the name of earlier versions


@pytest.mark.slow
def test_one_pass_serves_many_names_of_a_method_with_text() -> None:
    detector = zsad.create("winclip", backbone=zsad.load_backbone("tiny", image_size=80))
    images = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = detector.encode(images)
        refs = References(banks=detector.banks(References(images[:1])))
        found = [detector.score(features, detector.prepare(name, r)) for name in ("nut", "leather") for r in (None, refs)]
    assert len({one.pred_score[1].item() for one in found}) == 4


# ------------------------------------------------------------------ coreset
@pytest.mark.slow
def test_a_coreset_keeps_rows_together_with_what_belongs_to_them(compact: Any, good: Path) -> None:
    kept = Inspector(compact, "stripes", references=good).references
    whole, thin = kept.banks(), kept.banks(coreset=0.25)
    for key in ("3", "novelty.3"):
        assert len(thin[key].rows) == len(whole[key].rows) // 4
    assert torch.equal(thin["3"].source, thin["novelty.3"].source)
    for row, value in zip(thin["3"].rows[:20], thin["novelty.3"].rows[:20], strict=True):
        place = (whole["3"].rows == row).all(dim=1).nonzero()[0, 0]
        assert torch.equal(whole["novelty.3"].rows[place], value)
    near = scores(Inspector(compact, "stripes", references=good, coreset=0.5), texture(9, True))
    assert near == pytest.approx(scores(Inspector(compact, "stripes", references=good), texture(9, True)), rel=0.25)


# ------------------------------------------------------------------ tiles, sets, the command line
@pytest.mark.slow
def test_references_are_cut_as_pictures_are(compact: Any, good: Path) -> None:
    inspector = Inspector(compact, "stripes", references=good, tile=32)
    bank = inspector.references.banks()["3"]
    whole = Inspector(compact, "stripes", references=good).references.banks()["3"]
    assert len(bank.rows) > 2 * len(whole.rows)
    assert bank.source.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 40])
def test_sets_are_judged_in_the_inspector(tile: int | None) -> None:
    inspector = Inspector("musc", backbone="compact", rscin_k=(), tile=tile)
    assert inspector.needs_set
    pictures = [texture(seed, seed == 3) for seed in range(6)]
    found = list(inspector(pictures))
    assert [result.name for result in found] == [f"{n:07d}" for n in range(6)]
    assert int(np.argmax([result.pred_score for result in found])) == 3
    assert all(np.array_equal(result.image, rgb) for result, rgb in zip(found, pictures, strict=True))
    with pytest.raises(UsageError, match="needs at least 5; got 3"):
        list(inspector(pictures[:3]))


@pytest.mark.slow
def test_tiles_of_a_set_need_counterparts_and_one_scale() -> None:
    pictures = [texture(seed) for seed in range(6)] + [np.tile(texture(9), (1, 2, 1))]
    with pytest.raises(UsageError, match=r"compared. Leave tile out, or give rscin_k=\(\)"):
        list(Inspector("musc", backbone="compact", tile=40)(pictures))
    found = list(Inspector("musc", backbone="compact", rscin_k=(), tile=40, radii=(1,))(pictures))
    assert [result.error is None for result in found] == [True] * 6 + [False]
    assert "fewer than 5 pictures have as many" in str(found[6].error)


def test_a_set_survives_a_broken_picture(tmp_path: Path) -> None:
    folder = write(tmp_path / "pile", *(texture(seed) for seed in range(6)))
    (folder / "03.png").write_bytes(b"torn")
    found = list(Inspector("musc", backbone="compact")(folder))
    assert [result.error is None for result in found] == [True, True, True, False, True, True]


@pytest.mark.slow
def test_a_killed_set_goes_on_with_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "pile", *(texture(seed, seed == 2) for seed in range(7)))
    words = ["predict", str(folder), "--method", "musc", "--backbone", "compact", "--batch-size", "2"]
    whole = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "whole")])
    assert whole.exit_code == 0, whole.output
    assert not (tmp_path / "whole" / ".zsad" / "features").exists()
    assert "musc compares 7 pictures: about" in whole.stderr
    cls = zsad.registry.method_class("musc")
    judge = cls.score_set
    monkeypatch.setattr(cls, "score_set", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "cut")]).exit_code == 130
    monkeypatch.setattr(cls, "score_set", judge)
    monkeypatch.setattr(cls, "encode", lambda *_: pytest.fail("encoded again"))
    again = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "cut"), "--resume"])
    assert again.exit_code == 0, again.output
    for name in ("predictions.jsonl", "predictions.csv", "report.html"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_the_command_line_keeps_and_uses_references(good: Path, tmp_path: Path) -> None:
    saved, pile = tmp_path / "refs.zsad", write(tmp_path / "pile", *(texture(seed, seed == 9) for seed in range(8, 17)))
    run = CliRunner()
    made = run.invoke(app, ["references", str(saved), "--add", str(good), "--json", *SMALL])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["references"] == ["00.png", "01.png", "02.png", "03.png"]
    fewer = run.invoke(app, ["references", str(saved), "--remove", "03.png", *SMALL])
    assert "3 references in" in fewer.stdout
    out = ["--out", str(tmp_path / "out"), "--json"]
    found = run.invoke(app, ["predict", str(pile), "--references", str(saved), *out, *SMALL])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert said["run"]["detector"]["references"]["count"] == 3
    assert max(said["results"], key=lambda row: row["pred_score"])["name"] == "01.png"
    nothing = run.invoke(app, ["references", str(tmp_path / "none.zsad")])
    assert nothing.exit_code == 2
    assert "holds no saved references. Give --add DIR" in nothing.output


@pytest.mark.slow
def test_calibration_leaves_references_out(compact: Any, good: Path, tmp_path: Path) -> None:
    run = CliRunner()
    words = [*CALIBRATE, "--references", str(good), "--max-false-alarms", "0.25", "--out", str(tmp_path / "c.json")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Inspector, "scored", lambda *_, **__: pytest.fail("a picture was scored before the check"))
        mixed = run.invoke(app, [*words, "--normal", str(good)])
    assert mixed.exit_code == 2, mixed.output
    assert "4 of the normal pictures are references (00.png, 01.png, 02.png)" in mixed.output
    neither = run.invoke(app, ["calibrate", "--leave-one-out"])
    assert neither.exit_code == 2
    assert "where do the normal pictures come from?" in neither.output
    done = run.invoke(app, [*words, "--leave-one-out", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["kind"] == "leave-one-out"
    assert "approximate" in json.loads(done.stdout)["thresholds"]["source"]
    stored = json.loads((tmp_path / "c.json").read_text())["scores"]
    refs = list(list_images(good))
    rgb = [zsad.images.reading.load_image(ref).rgb for ref in refs]
    inspector = Inspector(compact, "object", references=good)
    alone = [next(inspector.left_out(digest_of(one)).scored([ref])).score for ref, one in zip(refs, rgb, strict=True)]
    assert stored == pytest.approx(alone)
    rest = [Inspector(compact, "object", references=rgb[:i] + rgb[i + 1 :]) for i in range(4)]
    assert stored == pytest.approx([scores(one, rgb[i])[0] for i, one in enumerate(rest)], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("coreset", [1.0, 0.3])
@pytest.mark.parametrize("tile", [None, 48])
def test_leaving_one_out_equals_references_without_it(
    good: Path, coreset: float, tile: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, and without a word encoded or, but for a coreset, a row read again."""
    shallow(monkeypatch)
    tower = zsad.load_backbone("tiny", image_size=48)  # of nine patches
    inspector = Inspector("winclip", "lamp", backbone=tower, references=good, coreset=coreset, tile=tile)
    names = {digest_of(zsad.images.reading.load_image(ref).rgb): ref.name for ref in list_images(good)}
    for digest, name in names.items():
        fewer = inspector.fork()
        fewer.remove_references(name)
        found, wanted = inspector.left_out(digest).context, fewer.context
        assert torch.equal(found.text, wanted.text)
        assert found.banks.keys() == wanted.banks.keys()
        for key, bank in wanted.banks.items():
            assert torch.equal(found.banks[key].rows, bank.rows)
            assert torch.equal(found.banks[key].source, bank.source)
    assert inspector.left_out(digest).describe() == inspector.describe()


def test_leaving_one_out_reads_and_encodes_nothing(compact: Any, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = Inspector(compact, references=good)
    digests = sorted(inspector.references.digests)
    monkeypatch.setattr(ReferenceSet, "rows", lambda *_: pytest.fail("rows were read again"))
    monkeypatch.setattr(type(compact), "prepare", lambda *_: pytest.fail("the context was prepared again"))
    for digest in digests:
        assert {len(set(bank.source.tolist())) for bank in inspector.left_out(digest).context.banks.values()} == {3}


@pytest.mark.slow
def test_with_a_coreset_blocks_are_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 pictures in blocks of 4, leaving each out in turn: 2 blocks of all, one moved by one, and one of its own each."""
    from zsad.references import coreset

    shallow(monkeypatch)
    whole = Inspector("winclip", backbone="tiny", references=[texture(seed) for seed in range(8)]).references
    members = list(whole._members.values())

    def fresh(without: str = "") -> ReferenceSet:
        made = ReferenceSet(whole.detector, (one for one in members if one.digest != without))
        made._folder = whole._folder
        return made

    wanted = {one.digest: fresh(one.digest).banks(0.1) for one in members}
    chosen: list[int] = []
    choose = coreset.coreset
    monkeypatch.setattr(coreset, "coreset", lambda rows, *how: chosen.append(len(rows)) or choose(rows, *how))
    known = fresh()
    known.banks(0.1)
    for digest, banks in wanted.items():
        found = known.banks_without(digest, {}, 0.1)
        assert found.keys() == banks.keys()
        assert all(torch.equal(found[key].rows, bank.rows) for key, bank in banks.items())
        assert all(torch.equal(found[key].source, bank.source) for key, bank in banks.items())
    assert len(chosen) == len(whole.keys()) * (2 + 1 + 8 - 1)  # the last block without its first is the one moved by one


def test_leaving_the_only_one_out_leaves_none(compact: Any) -> None:
    inspector = Inspector(compact, references=[texture(0)])
    assert inspector.left_out(*inspector.references.digests).context.banks == {}


def test_what_recurs_is_told_in_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from zsad.references import repeated

    monkeypatch.setattr(repeated, "recurring", lambda near, far: (torch.arange(len(near)) == 2)[:, None])
    found = list(Inspector("musc", backbone="compact")([texture(seed) for seed in range(6)]))
    assert [bool(result.notes) for result in found] == [False, False, True, False, False, False]
    assert "others have and most lack" in found[2].notes[0]


# ------------------------------------------------------------------ what would be silent nonsense
def test_saved_references_without_a_picture_are_refused(compact: Any, good: Path, tmp_path: Path) -> None:
    inspector = Inspector(compact, references=good)
    inspector.remove_references(*inspector.references.names)
    inspector.save_references(tmp_path / "refs.zsad")
    for given in (tmp_path / "refs.zsad", inspector.references):
        with pytest.raises(UsageError, match="The saved references hold no picture any more. Add some"):
            Inspector(compact, references=given)


@pytest.mark.parametrize("share", [0, -0.5, 2, float("nan")])
def test_a_share_of_rows_is_checked_before_weights_are_loaded(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.inference.inspector.build_method", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UsageError, match=rf"coreset is {share:g}; give the share of the references' patches"):
        Inspector("compact", coreset=share)


def test_a_coreset_of_nothing_is_said(good: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(good), "--coreset", "0.1", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "--coreset 0.1 was given without --references, so it would do nothing. Give both." in done.output


@pytest.mark.slow
def test_pictures_of_one_name_are_told_apart(good: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", texture(9))
    saved = ["references", str(tmp_path / "r.zsad"), *SMALL]
    both = CliRunner().invoke(app, [*saved, "--add", str(good), "--add", str(other)])
    assert "5 references in" in both.stdout
    done = CliRunner().invoke(app, [*saved, "--remove", "00.png"])
    assert "4 references in" in done.stdout
    assert "1 removed." in done.stdout
    again = ReferenceSet.load(tmp_path / "r.zsad")
    assert again.names == ("01.png", "02.png", "03.png", "00.png (2)")
    assert digest_of(texture(9)) in again.digests


@pytest.mark.slow
def test_leaving_out_needs_others(good: Path, tmp_path: Path) -> None:
    words = [*CALIBRATE, "--leave-one-out", "--max-false-alarms", "0.4", "--out", str(tmp_path / "c.json"), "--references"]
    one = write(tmp_path / "one", texture(1), texture(1))
    done = CliRunner().invoke(app, [*words, str(one)])
    assert done.exit_code == 2
    assert "Leaving the only reference out leaves none to compare with." in done.output
    shutil.copy(good / "01.png", good / "copy.png")
    done = CliRunner().invoke(app, [*words, str(good), "--json"])
    assert json.loads(done.stdout)["normal"] == 4  # a copy counts once
    Inspector("compact", tower="small", references=good).save_references(tmp_path / "r.zsad")
    done = CliRunner().invoke(app, [*words[:-2], str(tmp_path / "d.json"), "--references", str(tmp_path / "r.zsad")])
    assert "Saved references hold no pictures to score. Give --references the folder" in done.output


@pytest.mark.parametrize("detector", [["--set", "batch=True"], ["--method", "musc", "--backbone", "compact"]])
def test_no_calibration_where_the_pictures_are_compared_with_each_other(
    detector: list[str], good: Path, tmp_path: Path
) -> None:
    words = ["calibrate", "--normal", str(good), "--max-false-alarms", "0.4", "--out", str(tmp_path / "c.json")]
    done = CliRunner().invoke(app, [*words, *detector])
    assert done.exit_code == 2
    assert "compares the pictures of a folder with each other here" in done.output
    assert not (tmp_path / "c.json").exists()


def test_encoded_pictures_are_judged_by_their_encoder_alone(compact: Any) -> None:
    encoded = Inspector(compact, roi=(0, 0, 40, 40)).encode(texture(1))
    with pytest.raises(
        UsageError, match=r"encoded with other settings: geometry.roi was \"box:0,0 40,40\" and is null. Score them"
    ):
        next(Inspector(compact).rescore(encoded))
    with pytest.raises(UsageError, match=r'precision was "fp32" and is "bf16"'):
        next(Inspector(compact, roi=(0, 0, 40, 40), precision="bf16").rescore(encoded))
    with pytest.raises(UsageError, match='method was "compact" and is "musc"'):
        next(Inspector("musc", backbone="compact").rescore(encoded))
    assert next(Inspector(compact, "zebra", threshold=0.1, roi=(0, 0, 40, 40)).rescore(encoded)).error is None
