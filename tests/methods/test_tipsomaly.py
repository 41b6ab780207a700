"""Tipsomaly's laws and its checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import maps
from zsad.backbones import tips, tips_text
from zsad.backbones.blocks import TowerShape
from zsad.cli.convert import convert_checkpoint
from zsad.errors import CheckpointMismatch, NotTrained, UsageError
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import tipsomaly as proof
from zsad.verification.reference import Reference
from zsad.weights.checkpoints import load_index, read_state_dict

LINES = ["a bad photo of a nut.", "a photo of the damaged nut, twice."]


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    return zsad.create("tipsomaly", backbone=zsad.load_backbone("tips-tiny"))


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 70, 70, generator=torch.Generator().manual_seed(seed))


def like(tiny: Any, **arguments: Any) -> Any:
    """The same weights with other arguments."""
    other = zsad.create("tipsomaly", backbone=tiny.backbone, **arguments)
    other.load_learned(tiny.learned_state())
    return other


# ------------------------------------------------------------------ text
def test_names_and_sentences(tiny: Any) -> None:
    context = tiny.prepare("metal_gasket-ring")
    assert context.sentences["normal"][0] == "a bad photo of a metal gasket ring."
    assert (len(context.sentences["normal"]), len(context.sentences["anomalous"])) == (28, 20)
    assert torch.equal(context.text, tiny.prepare("banana").text)  # the map's text is of the word object
    assert not torch.equal(context.extra["score"], tiny.prepare("banana").extra["score"])
    medical = like(tiny, prompts="medical").prepare("brain")
    assert (len(medical.sentences["normal"]), len(medical.sentences["anomalous"])) == (80, 64)


def test_which_text_scores_what(tiny: Any) -> None:
    default = tiny.prepare("nut")
    fixed, learned = like(tiny, learned_map=False).prepare("nut"), like(tiny, learned_score=True).prepare("nut")
    assert torch.equal(fixed.text, default.extra["score"])
    assert torch.equal(fixed.text, fixed.extra["score"])
    assert torch.equal(learned.extra["score"], default.text)
    assert zsad.create("tipsomaly", backbone=tiny.backbone, learned_map=False).trained  # nothing is learned then
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        zsad.Inspector(zsad.create("tipsomaly", backbone=tiny.backbone))


# ------------------------------------------------------------------ scores
def test_the_score_adds_the_highest_patch(tiny: Any) -> None:
    with torch.inference_mode():
        context, features = tiny.prepare("nut"), tiny.encode(pictures())
        whole, alone = tiny.score(features, context), like(tiny, aggregate=False).score(features, context)
        patches = tiny.patch_scores(features, context)
    torch.testing.assert_close(whole.pred_score, alone.pred_score + patches.amax(dim=(1, 2)))
    cosine = F.normalize(features.image, dim=-1) @ context.extra["score"][0].T
    torch.testing.assert_close(alone.pred_score, (cosine / tiny.backbone.temperature).softmax(-1)[:, 1])


def test_the_register_is_the_second_class_token(tiny: Any) -> None:
    with torch.inference_mode():
        one, two = tiny.encode(pictures()), like(tiny, class_token=2).encode(pictures())
        classes, patches = tiny.backbone.encode_tokens(pictures())
    assert torch.equal(one.image, classes[:, 0])
    assert torch.equal(two.image, classes[:, 1])
    assert torch.equal(one.taps[12].patches, patches.patches)


def test_a_batch_is_its_pictures(tiny: Any) -> None:
    with torch.inference_mode():
        context = tiny.prepare("nut", zsad.References(pictures(2, seed=9)))
        together = tiny(pictures(), context)
        for index in range(3):
            alone = tiny(pictures()[index : index + 1], context)
            torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-5)


def test_the_loss_is_of_the_map_alone(tiny: Any) -> None:
    masks = torch.zeros(3, 70, 70)
    masks[0, :20] = 1
    batch = Batch(pictures(), torch.tensor([1, 0, 0]), masks, ("nut",) * 3)
    losses = tiny.loss(batch, tiny.prepare())
    assert set(losses) == {"focal", "dice", "dice normal"}
    cached = tiny.loss(Batch(tiny.encode(pictures()), batch.labels, masks, batch.names), tiny.prepare())
    torch.testing.assert_close(cached, losses)
    with pytest.raises(UsageError, match="tipsomaly learns from masks; got a batch without"):
        tiny.loss(Batch(pictures(), batch.labels, None, batch.names), tiny.prepare())


# ------------------------------------------------------------------ the authors' files
def wide(width: int = 1024) -> Any:
    """A TIPS as wide as L/14, of one block."""
    shape, words = TowerShape(width, 1, 16, 64), 100
    text = tips_text.TIPSText(shape, words)
    return tips.TIPS("wide", tips.TIPSVision(shape, 14, 5), text, tips_text.WordHashes(words), None, 0.05).requires_grad_(False)


@pytest.mark.parametrize("tag", ["mvtec", "visa"])
def test_shipped_prompts(tag: str, root: Path) -> None:
    row = load_index()[f"tipsomaly.{tag}"]
    detector = zsad.create(row.name, backbone=wide())
    assert detector.trained
    assert (detector.weights_sha256, detector.header["trained_on"]) == (row.sha256, row.trained_on)
    assert row.path is not None
    assert row.path.stat().st_size == row.size
    norms = {"mvtec": (7.511884, 7.445074), "visa": (7.870866, 7.226836)}[tag]  # of the published files
    found = tuple(float(one.detach().norm()) for one in (detector.prefix.normal, detector.prefix.anomalous))
    assert found == pytest.approx(norms, abs=1e-5)
    with torch.inference_mode():
        assert torch.isfinite(detector(pictures(1), detector.prepare("nut")).pred_score).all()
    published = root.parent / "shared" / "checkpoints" / "tipsomaly" / f"tipsomaly_trained_on_{tag}_learnable_params_2.pth"
    if published.is_file():  # the authors' own file, beside this checkout
        assert zsad.weights.checkpoints.published(published) == row
        twin = zsad.create("tipsomaly", backbone=detector.backbone, checkpoint=published)
        assert torch.equal(twin.prefix.normal, detector.prefix.normal)
        assert torch.equal(twin.prefix.anomalous, detector.prefix.anomalous)


def test_both_layouts_and_wrong_files(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.pth"
    own = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(5, 64)) for _ in range(2)])
    for layout in (own, {"learnable_prompts": own}):
        torch.save(layout, path)
        loaded = zsad.create("tipsomaly", backbone=tiny.backbone, checkpoint=path)
        assert loaded.length == 5  # of the file
        assert torch.equal(loaded.prefix.anomalous, own[1])
    with pytest.raises(CheckpointMismatch, match=r"prefix\.anomalous is \(5, 64\) instead of \(8, 64\)"):
        zsad.create("tipsomaly", backbone=tiny.backbone, checkpoint=path, length=8)
    torch.save(torch.nn.ParameterList([own[0]]), path)
    with pytest.raises(CheckpointMismatch, match=r"missing: prefix\.anomalous"):
        zsad.create("tipsomaly", backbone=tiny.backbone, checkpoint=path)
    torch.save({"learnable_prompts": {str(n): torch.zeros(8, 64) for n in range(3)}}, path)
    with pytest.raises(CheckpointMismatch, match="unexpected: 2"):
        zsad.create("tipsomaly", backbone=tiny.backbone, checkpoint=path)
    with pytest.raises(CheckpointMismatch, match=r"prefix\.anomalous is \(8, 1024\) instead of \(8, 64\)"):
        zsad.create("tipsomaly.visa", backbone=tiny.backbone)
    with pytest.raises(UsageError, match="tipsomaly cannot run on the backbone 'tiny', which has no encode_tokens"):
        zsad.create("tipsomaly", backbone=zsad.load_backbone("tiny"))


def test_conversion_needs_no_tower(tmp_path: Path) -> None:
    source = tmp_path / "learnable_params_2.pth"
    own = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(8, 1024)) for _ in range(2)])
    torch.save(own, source)
    header = convert_checkpoint(source, "tipsomaly", tmp_path / "n.safetensors", trained_on="nuts", licence="MIT")
    assert (header["backbone"]["name"], header["compared"], header["arguments"]["length"]) == ("tips-l14-hr", False, 8)
    assert torch.equal(read_state_dict(tmp_path / "n.safetensors")["prefix.normal"], own[0])


# ------------------------------------------------------------------ mistakes that the proof has to see
class Table:
    """Token ids as they are stored, so that no tokenizer is needed."""

    def __init__(self, reference: Reference) -> None:
        self.ids: dict[str, list[int]] = {}
        for key in ("fixed_class0", "fixed_class1", "learned_object"):
            rows, lengths = reference[f"token_ids/{key}"], reference[f"token_lengths/{key}"]
            for line, row, length in zip(reference.settings["prompts"][key], rows, lengths, strict=True):
                self.ids[line] = row[:length].tolist()

    def __call__(self, sentence: str) -> list[int]:
        return self.ids[sentence]


@pytest.fixture(scope="module")
def towers(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tipsomaly")
    return {name: proof.backbone(reference, folder, name) for name in ("", "down/")}


def relu_is_gelu(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    for block in towers[""].text.transformer.blocks:
        monkeypatch.setattr(block.mlp, "activation", F.gelu)


def interleaved_positions(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    own = tips_text.sinusoids
    monkeypatch.setattr(tips_text, "sinusoids", lambda n, width: torch.stack(own(n, width).chunk(2, dim=1), dim=2).flatten(1))


def embeddings_as_they_are(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    monkeypatch.setattr(math, "sqrt", lambda x: 1.0)


def no_antialias(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    monkeypatch.setattr(tips, "POSITIONS", "bilinear")


def quick_gelu(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    for block in towers[""].vision.transformer.blocks:
        monkeypatch.setattr(block.mlp, "activation", lambda x: x * torch.sigmoid(1.702 * x))


def aligned_corners(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    monkeypatch.setattr("zsad.methods.tipsomaly.upsample", lambda grid, size: maps.upsample(grid, size, align_corners=True))


def scaled_prefix(monkeypatch: pytest.MonkeyPatch, towers: dict[str, Any]) -> None:
    own = tips.TIPS.encode_text
    monkeypatch.setattr(
        tips.TIPS, "encode_text", lambda self, lines, prefix=None: own(self, lines, prefix if prefix is None else 11.3 * prefix)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "output"),
    [
        (None, ""),
        (relu_is_gelu, "token_probs"),
        (interleaved_positions, "token_probs"),
        (embeddings_as_they_are, "token_probs"),
        (scaled_prefix, "patch_probs"),
        (no_antialias, "down/spatial_tokens"),
        (quick_gelu, "class_token_1"),
        (aligned_corners, "anomaly_map"),
    ],
)
def test_mistakes_are_seen(
    reference: Reference, towers: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Any, output: str
) -> None:
    monkeypatch.setattr(towers[""], "tokenizer", Table(reference))
    if mistake is not None:
        mistake(monkeypatch, towers)
    check = Comparisons(reference)
    with torch.inference_mode():
        if mistake in (None, no_antialias, quick_gelu):
            for name, tower in towers.items():
                proof._vision(check, tower, proof.pixels(reference), name)
        if mistake not in (no_antialias, quick_gelu):
            detectors = [proof.build(reference, tmp_path, towers[""], class_token=token) for token in (1, 2)]
            proof._outputs(reference, check, detectors, "")
    failed = {one.output for one in check.made if not one.passed}
    assert output in failed if mistake else not failed
