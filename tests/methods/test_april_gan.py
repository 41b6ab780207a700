"""APRIL-GAN's laws and its checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import CheckpointMismatch, NeedsSet, NotTrained, UsageError
from zsad.types import Batch, ImageFeatures
from zsad.verification.proofs import april_gan as proof
from zsad.verification.reference import Reference, reference_folder
from zsad.verification.towers import TAPS, write_tower


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny CLIP, and a checkpoint in the authors' layout."""
    folder, reference = tmp_path_factory.mktemp("aprilgan"), Reference(reference_folder(), "aprilgan")
    layers = proof.write_projections(reference.settings["seed"], folder / "layers.pth")
    return {"backbone": write_tower(reference, folder), "layers": layers}


def build(files: dict[str, Path], **arguments: Any) -> Any:
    backbone = zsad.load_backbone(
        f"file:{files['backbone']}", activation="gelu", position_embedding="bicubic_antialias", image_size=112
    )
    return zsad.create("april_gan", backbone=backbone, checkpoint=files["layers"], **arguments)


# ------------------------------------------------------------------ the authors' files
def test_a_string_backbone_follows_the_recipe(files: dict[str, Path]) -> None:
    detector = zsad.create("april_gan", backbone=f"file:{files['backbone']}", checkpoint=files["layers"])
    backbone = detector.backbone
    assert (backbone.image_size, backbone.activation, backbone.position_embedding) == (518, "gelu", "bicubic_antialias")
    assert detector.trained
    assert detector.layers == TAPS


@pytest.mark.slow
def test_wrong_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    good = torch.load(files["layers"], weights_only=True)["trainable_linearlayer"]

    def refused(state: dict[str, Any], message: str, **arguments: Any) -> None:
        torch.save(state, tmp_path / "layers.pth")
        with pytest.raises(CheckpointMismatch, match=message):
            build(files | {"layers": tmp_path / "layers.pth"}, **arguments)

    refused({"trainable_linearlayer": good}, r"unexpected: projections\.2\.bias", taps=(12, 24))
    less = {key: tensor for key, tensor in good.items() if key != "fc.3.bias"}
    refused({"trainable_linearlayer": less}, r"missing: projections\.3\.bias")
    refused({"trainable_linearlayer": good | {"surplus": torch.zeros(1)}}, "unexpected: surplus")
    wide = good | {"fc.0.weight": torch.zeros(64, 256)}
    refused({"trainable_linearlayer": wide}, r"projections\.0\.weight is \(64, 256\) instead of \(64, 128\)")
    refused({"prompt_learner": {"ctx_pos": torch.zeros(1)}}, "missing: projections.*unexpected: prompt_learner")


def test_without_the_wrapper(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(torch.load(files["layers"], weights_only=True)["trainable_linearlayer"], tmp_path / "bare.pth")
    found = build(files | {"layers": tmp_path / "bare.pth"}).learned_state()
    for key, tensor in build(files).learned_state().items():
        assert torch.equal(found[key], tensor)


# ------------------------------------------------------------------ laws, on the tiny backbone
@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With two sentences in place of 420."""
    own = tmp_path_factory.mktemp("prompts") / "two.toml"
    own.write_text('templates = ["a photo of a {}."]\n[states]\nnormal = ["{}"]\nanomalous = ["damaged {}"]\n')
    torch.manual_seed(0)
    return zsad.create("april_gan", backbone=zsad.load_backbone("tiny"), prompts=str(own))


@pytest.fixture(scope="module")
def faithful(tiny: Any) -> Any:
    """With the authors' image scores."""
    detector = zsad.create("april_gan", backbone=tiny.backbone, prompts=tiny.prompts, faithful=True)
    detector.load_state_dict(tiny.state_dict())
    return detector


def pictures(count: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 80, 80, generator=torch.Generator().manual_seed(seed))


def test_taps_follow_the_depth(tiny: Any) -> None:
    assert tiny.layers == (3, 6, 9, 12)
    assert zsad.create("april_gan", backbone=tiny.backbone, taps=[2, 5]).map_range == (0.0, 2.0)


def test_sentences(tiny: Any) -> None:
    sentences = zsad.prompts.prompt_set.PromptSet.load(zsad.create("april_gan", backbone=tiny.backbone).prompts).sentences(
        "pipe_fryum"
    )
    assert (len(sentences["normal"]), len(sentences["anomalous"])) == (7 * 35, 5 * 35)
    assert sentences["normal"][0] == "a bad photo of a pipe_fryum."
    assert sentences["anomalous"][-1] == "this is one pipe_fryum with damage in the scene."


def test_margin_is_the_softmax_of_two(tiny: Any) -> None:
    with torch.inference_mode():
        context, features = tiny.prepare("nut"), tiny.encode(pictures())
        margin = tiny.margins(features, context)[6]
        projected = F.normalize(tiny.projections[1](features.taps[6].patches), dim=-1)
        both = (100 * projected @ context.text[0].T).softmax(dim=-1)
    torch.testing.assert_close(margin.sigmoid(), both[..., 1], rtol=0, atol=2e-5)


class OnDisk:
    """A sequence that makes features when asked, and counts."""

    def __init__(self, detector: Any, images: torch.Tensor) -> None:
        self.detector, self.images, self.read = detector, images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageFeatures:
        if index >= len(self.images):
            raise IndexError(index)
        self.read += 1
        return self.detector.encode(self.images[index : index + 1])  # type: ignore[no-any-return]


def test_the_set_is_read_twice_and_lazily(faithful: Any) -> None:
    with torch.inference_mode():
        context = faithful.prepare("nut", zsad.References(pictures(2, seed=9)))
        lazy = OnDisk(faithful, pictures())
        found = faithful.score_set(lazy, context)
        first = next(found)
        assert lazy.read == 4  # all three for the maxima, one for its answer
        rest = list(found)
        assert lazy.read == 6
        texts = faithful.text_score(faithful.encode(pictures()), context)
    scores = torch.cat([one.pred_score for one in [first, *rest]])
    highest = torch.stack([one.anomaly_map.max() for one in [first, *rest]])
    by_hand = 0.5 * (texts + (highest - highest.min()) / (highest.max() - highest.min()))
    torch.testing.assert_close(scores, by_hand)


def test_a_set_of_one_has_no_range(faithful: Any) -> None:
    with torch.inference_mode():
        context, features = faithful.prepare("nut", zsad.References(pictures(1))), faithful.encode(pictures(1, seed=3))
        [found] = faithful.score_set([features], context)
    torch.testing.assert_close(found.pred_score, faithful.text_score(features, context) / 2)


def test_references_need_the_set(faithful: Any) -> None:
    context = faithful.prepare("nut", zsad.References(pictures(1)))
    assert faithful.needs_set(context)
    assert not faithful.needs_set(faithful.prepare("nut"))
    with pytest.raises(NeedsSet, match=r"cannot score a picture by itself. Call score_set"):
        faithful(pictures(), context)


def test_by_default_a_score_is_the_pictures_own(tiny: Any, faithful: Any) -> None:
    with torch.inference_mode():
        context = tiny.prepare("nut", zsad.References(pictures(2, seed=9)))
        together, alone = tiny(pictures(), context), tiny(pictures()[1:2], context)
        texts = tiny.text_score(tiny.encode(pictures()), context)
        authors = torch.cat(
            [one.pred_score for one in faithful.score_set([faithful.encode(pictures())[i : i + 1] for i in range(3)], context)]
        )
    torch.testing.assert_close(alone.pred_score, together.pred_score[1:2], rtol=0, atol=1e-5)
    torch.testing.assert_close(together.pred_score, (texts + together.anomaly_map.amax(dim=(1, 2)) / 8) / 2)
    assert (together.pred_score - authors).abs().max() > 0.01


def test_a_reference_is_at_zero_distance_of_itself(tiny: Any) -> None:
    with torch.inference_mode():
        features, images = tiny.encode(pictures()), pictures()
        own, more = (tiny.prepare("nut", zsad.References(chosen)) for chosen in (images[:1], images))
        for distances in tiny.reference_distances(features, more).values():
            assert distances.abs().max() < 1e-5
        few, many = tiny.reference_distances(features, own), tiny.reference_distances(features, more)
    assert all((many[layer] <= few[layer] + 1e-6).all() for layer in few)


def test_what_it_cannot_do_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(NotTrained, match=r"no learned weights yet.*checkpoint="):
        zsad.Inspector(tiny)
    with pytest.raises(UsageError, match="has no visual"):
        zsad.create("april_gan", backbone=zsad.load_backbone("compact"))
    with pytest.raises(UsageError, match="learns from masks; got a batch without"):
        tiny.loss(Batch(pictures(), torch.zeros(3), None, ("nut",) * 3), tiny.prepare("nut"))
    own = tmp_path / "mine.toml"
    own.write_text('templates = ["{}."]\n[states]\ngood = ["clean {}"]\nbad = ["rusty {}"]\n')
    with pytest.raises(UsageError, match="needs the classes 'normal' and 'anomalous'"):
        zsad.create("april_gan", backbone=tiny.backbone, prompts=str(own)).prepare("nut")
