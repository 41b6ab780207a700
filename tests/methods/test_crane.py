"""Crane's and Crane+'s laws, checkpoints and mistakes; that they equal their authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment.attention import like_attention, self_self_sum, value_value
from zsad.errors import CheckpointMismatch, UsageError
from zsad.types import Batch, Recipe
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import anomalyclip, crane
from zsad.verification.reference import Reference
from zsad.weights.checkpoints import read_state_dict

SIZE = 80


@pytest.fixture(scope="module")
def tiny() -> Any:
    return zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")


@pytest.fixture(scope="module")
def plus(tiny: Any) -> Any:
    """Crane+ on tiny weights, the second encoder on a finer grid than CLIP's."""
    return zsad.create("crane", backbone=tiny, attention=zsad.load_backbone("tiny", image_size=96, seed=1))


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


# ------------------------------------------------------------------ attention
def test_three_attentions_are_summed() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    weights = sum((x @ x.transpose(2, 3) / 8**0.5).softmax(dim=-1) for x in (q, k, v))
    torch.testing.assert_close(self_self_sum(q, k, v), weights @ v)
    torch.testing.assert_close(self_self_sum(v, v, v), 3 * value_value(q, k, v))


def test_weights_of_likeness_by_hand() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]])  # cosines 1, 0, 0.707
    cosine = torch.tensor([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5], [0.5**0.5, 0.5**0.5, 1]])
    logits = 3 * (cosine - 1.2 * cosine.mean())
    kept = torch.where(logits >= 0, logits.exp(), torch.zeros(()))
    torch.testing.assert_close(like_attention(patches, 1.2, 3.0)[0], kept / kept.sum(dim=1, keepdim=True))
    assert not kept[0, 1]  # less alike than the mean


def test_where_all_patches_are_alike_each_has_itself() -> None:
    weights = like_attention(torch.ones(1, 4, 3), 1.2, 3.0)
    assert torch.equal(weights[0], torch.eye(4))


# ------------------------------------------------------------------ Crane+
def test_an_encoder_is_left_out_unless_it_is_named(tiny: Any, plus: Any) -> None:
    plain = zsad.create("crane", backbone=tiny)
    assert plain.attention is None
    assert plain.frozen_encoders().keys() == {"backbone"}
    assert plus.frozen_encoders().keys() == {"backbone", "attention"}
    assert (plain.early, plus.early) == (True, False)
    streams = plus.encode(pictures(1)).streams
    assert streams["alike"][12].grid == streams["local"][12].grid == (5, 5)  # from a grid of 6 x 6
    assert zsad.create("crane", backbone=tiny, attention="tiny").attention.image_size == 512  # 518 with patches of 16


def test_scores_of_crane_plus_depend_on_the_batch_only_where_asked(plus: Any, tiny: Any) -> None:
    images = pictures(3)
    published = zsad.create("crane", backbone=tiny, attention=plus.attention, faithful=True)
    with torch.inference_mode():
        for detector, same in ((plus, True), (published, False)):
            context = detector.prepare()
            together, alone = detector(images, context), detector(images[:1], context)
            apart = (together.anomaly_map[:1] - alone.anomaly_map).abs().max()
            assert (apart < 1e-6) == same, float(apart)
            assert bool((together.pred_score[:1] - alone.pred_score).abs() < 1e-6) == same


def test_a_checkpoint_of_crane_plus_names_its_encoder(plus: Any, tiny: Any, tmp_path: Path) -> None:
    header = plus.save(tmp_path / "plus.safetensors")
    assert header["encoders"]["attention"]["image_size"] == 96
    assert "attention" not in header["arguments"]
    again = zsad.create("crane", backbone=tiny, attention=plus.attention, checkpoint=tmp_path / "plus.safetensors")
    assert torch.equal(again.prompts.normal, plus.prompts.normal)


def test_dinov2_s_patches_are_behind_its_last_norm(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from zsad.backbones.second_encoder import aligned_patches

    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, num_register_tokens=2
    )
    model = transformers.Dinov2WithRegistersModel(config)
    torch.nn.init.normal_(model.layernorm.weight)
    model.save_pretrained(tmp_path)
    encoder, before = zsad.load_backbone(f"hf:{tmp_path}", image_size=56), zsad.load_backbone("tiny", image_size=64).preprocess
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        own = encoder.preprocess.again(images, before)
        expected = model.eval()(pixel_values=own).last_hidden_state[:, 3:]  # behind class token and registers
        torch.testing.assert_close(aligned_patches(encoder, images, before, (4, 4)), expected)


# ------------------------------------------------------------------ prompts and training
def test_the_picture_in_the_prompts(reference: Reference, folder: Path, tower: Any, tiny: Any) -> None:
    detector = crane.build(reference, folder, tower, image_token=True)
    images = reference.pixels()
    with torch.inference_mode():
        text = detector.text(detector.encode(images).image)
        assert text.shape == (2, 2, 128)
        assert (text[0] - text[1]).abs().max() > 1e-3
        context, together = detector.prepare(), detector(images, detector.prepare())
        alone = detector(images[1:], context)
    torch.testing.assert_close(alone.pred_score, together.pred_score[1:], rtol=0, atol=1e-5)
    narrow = zsad.create("crane", backbone=tiny, image_token=True)
    with pytest.raises(UsageError, match=r"width 32 cannot stand among text tokens of width 64\. Leave image_token out"):
        narrow(pictures(1), narrow.prepare())


def test_labels_alone_teach_too(tiny: Any) -> None:
    detector = zsad.create("crane", backbone=tiny)
    images, labels = pictures(2), torch.tensor([0, 1])
    assert set(detector.loss(Batch(images, labels, None, ("x", "x")), detector.prepare())) == {"picture"}
    cached = detector.loss(Batch(detector.encode_for_loss(images), labels, None, ("x", "x")), detector.prepare())
    assert cached["picture"].requires_grad


def test_layers(tiny: Any) -> None:
    assert zsad.create("crane", backbone=tiny).layers == (3, 6, 9, 12)
    clean = zsad.create("crane", backbone=tiny, aliased_taps=False)
    assert set(clean.encode(pictures(1)).streams["local"]) == {3, 6, 9, 12}
    with pytest.raises(UsageError, match=r"taps=\(13,\) of crane must lie in 1\.\.12"):
        zsad.create("crane", backbone=tiny, taps=(13,))


# ------------------------------------------------------------------ checkpoints
def test_the_authors_layout_at_its_published_size(wide_text: Any, tmp_path: Path) -> None:
    written = crane.write_prompts(5, tmp_path / "epoch_5.pth", width=768)
    loaded = zsad.create("crane", backbone=wide_text, checkpoint=written)
    stored = torch.load(written)["prompt_learner"]
    assert torch.equal(loaded.prompts.anomalous, stored["ctx_neg"][0, 0])
    assert torch.equal(loaded.prompts.deep[7], stored["compound_prompts_text.7"])
    for name in ("mvtec", "visa"):
        path = Path(__file__).resolve().parents[3] / "shared/checkpoints" / f"crane_{name}_epoch5.pth"
        if path.is_file():  # the published files, where they lie beside the checkout
            state = read_state_dict(path)["prompt_learner"]
            wide_text.token_embedding.weight[-2] = state["token_prefix_pos"].flatten()
            loaded = zsad.create("crane", backbone=wide_text, checkpoint=path)
            assert torch.equal(loaded.prompts.normal, state["ctx_pos"][0, 0])


def test_wrong_files_are_refused(reference: Reference, tower: Any, tmp_path: Path) -> None:
    def load(path: Path, **arguments: Any) -> Any:
        return zsad.create("crane", backbone=tower, checkpoint=path, **arguments)

    seed = reference.settings["seed"]
    with pytest.raises(CheckpointMismatch, match=r"AnomalyCLIP's layout .*create\('anomalyclip'\)"):
        load(anomalyclip.write_prompts(seed, tmp_path / "anomalyclip.pth"))
    with pytest.raises(CheckpointMismatch, match=r"prompts\.anomalous is \(12, 64\) instead of \(12, 128\)"):
        load(crane.write_prompts(seed, tmp_path / "narrow.pth", width=64))
    fits = crane.write_prompts(seed, tmp_path / "fits.pth")
    with pytest.raises(CheckpointMismatch, match=r"unexpected: prompts\.deep\.2"):
        load(fits, deep=3)
    state = torch.load(fits)
    state["prompt_learner"]["ctx_extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(CheckpointMismatch, match="unexpected: ctx_extra"):
        load(tmp_path / "more.pth")


# ------------------------------------------------------------------ plausible mistakes are seen
def failed(reference: Reference, detector: Any, stem: str) -> set[str]:
    check = Comparisons(reference)
    crane._outputs(reference, check, detector, stem)
    return {one.kind for one in check.made if not one.passed}


def averaged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.methods.crane.self_self_sum", lambda q, k, v: self_self_sum(q, k, v) / 3)


def late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recipe, "local_layer", lambda self, depth, start=None: 7)


def raw_image(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("zsad.methods.crane.pooled_with_patches", lambda image, *_: F.normalize(image, dim=-1))


def corners(patch: pytest.MonkeyPatch) -> None:
    from zsad.alignment import maps

    patch.setattr("zsad.methods.crane.upsample", lambda *a, **k: maps.upsample(*a, **{**k, "align_corners": True}))


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


MISTAKES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str, dict[str, Any], set[str]]] = {
    "none": (nothing, "crane/", {}, set()),
    "attention averaged": (averaged, "crane/", {}, {"features", "maps", "scores"}),
    "cloned taps": (nothing, "crane/", {"aliased_taps": False}, {"maps", "scores"}),
    "path from layer 7": (late, "crane/", {}, {"features", "maps", "scores"}),
    "softmax behind the resize": (nothing, "crane/", {"soft_mean": False}, {"maps"}),
    "aligned corners": (corners, "crane/", {}, {"maps"}),
    "no patches in the image feature": (raw_image, "crane/", {}, {"scores"}),
    "static prompts": (nothing, "crane_imgcls/", {}, {"text", "maps", "scores"}),
    "a picture's own mean": (nothing, "cranep/", {"plus": True}, {"features", "maps", "scores"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(
    mistake: str, reference: Reference, folder: Path, tower: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, stem, arguments, expected = MISTAKES[mistake]
    detector = crane.build(reference, folder, tower, **arguments)
    spoil(monkeypatch)
    found = failed(reference, detector, stem)
    assert found >= expected
    assert bool(found) == bool(expected)
