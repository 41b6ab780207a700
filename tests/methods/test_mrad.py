"""MRAD's memory, laws and checkpoints; that it equals its authors' code is tests/verification's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.errors import CheckpointMismatch, NotTrained, SourceNotFound, UsageError
from zsad.references import labelled_memory
from zsad.references.labelled_memory import LabelledMemory, covered_means, neighbour_mean
from zsad.types import Batch
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import mrad as proof
from zsad.verification.reference import Reference, reference_folder

SIDE = 80  # of the tiny backbone's pictures; 5 x 5 patches


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tower() -> Any:
    return zsad.load_backbone("tiny", activation="quick_gelu", position_embedding="bilinear")


def examples(count: int = 6, seed: int = 0) -> Batch:
    """Every second picture has a defect that covers four patches wholly and none in part."""
    images = torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % 2
    masks = torch.zeros(count, SIDE, SIDE)
    masks[1::2, 16:48, 16:48] = 1
    return Batch(images, labels, masks, ("x",) * count)


def build(tower: Any, **arguments: Any) -> Any:
    torch.manual_seed(0)
    return zsad.create("mrad", backbone=tower, **arguments)


@pytest.fixture(scope="module")
def filled(tower: Any) -> Any:
    detector = build(tower)
    detector.remember([examples()])
    return detector


# ------------------------------------------------------------------ the memory is made
def test_a_key_per_picture_and_two_of_patches(filled: Any) -> None:
    assert filled.trained
    assert filled.image_memory.values.tolist() == [[1, 0], [0, 1]] * 3
    assert filled.patch_memory.values.tolist() == [[1, 0], [0, 1], [1, 0]] * 3  # a normal picture, then inside and outside
    step = examples()
    (tap,) = filled.encode(step.images[1:2]).streams["local"].values()
    inside = tap.patches[0].unflatten(0, (5, 5))[1:3, 1:3].flatten(0, 1).mean(0)
    torch.testing.assert_close(filled.patch_memory.keys[1], F.normalize(inside, dim=-1))


def test_how_pictures_come_in_batches_does_not_matter(tower: Any, filled: Any) -> None:
    step, detector = examples(), build(tower)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    detector.remember(
        Batch(detector.encode(step.images[part]), step.labels[part], step.masks[part], step.names[part])  # cached features
        for part in parts
    )
    for key, tensor in filled.learned_state().items():
        torch.testing.assert_close(detector.learned_state()[key], tensor)


def test_without_masks(tower: Any) -> None:
    """Anomalous pictures enter the image memory alone; normal ones are normal everywhere."""
    step, detector = examples(), build(tower)
    detector.remember([step, Batch(step.images, step.labels, None, step.names)])
    assert detector.image_memory.values.sum(0).tolist() == [6, 6]
    assert detector.patch_memory.values.sum(0).tolist() == [9, 3]
    torch.testing.assert_close(detector.patch_memory.keys[-3:], detector.patch_memory.keys[[0, 3, 6]])


def test_small_defects_leave_no_key() -> None:
    patches, masks = torch.randn(2, 25, 4), torch.zeros(2, SIDE, SIDE)
    masks[0, :5, :5] = 1  # below the middle of a patch: no trace on the grid
    masks[1, 16:40, 16:32] = 1  # one patch wholly, one in part
    keys, values = covered_means(patches, (5, 5), torch.ones(2), masks)
    assert values.tolist() == [[1, 0], [0, 1], [1, 0]]
    torch.testing.assert_close(keys[1], F.normalize(patches[1, 6], dim=-1))
    outside = [place for place in range(25) if place not in (6, 11)]
    torch.testing.assert_close(keys[2], F.normalize(patches[1, outside].mean(0), dim=-1))


@pytest.mark.parametrize(
    ("chosen", "masked", "message"),
    [
        (slice(0, 6, 2), True, "the picture memory would have 3 normal and 0 anomalous keys"),
        (slice(0, 0), True, "the picture memory would have 0 normal and 0 anomalous keys"),
        (slice(0, 6), False, "the patch memory would have 3 normal and 0 anomalous keys. A patch counts where"),
    ],
)
def test_one_kind_is_not_enough(tower: Any, chosen: slice, masked: bool, message: str) -> None:
    step, detector = examples(), build(tower)
    before = detector.learned_state()
    masks = step.masks[chosen] if masked else None
    batches = [Batch(step.images[chosen], step.labels[chosen], masks, step.names[chosen])] if len(step.labels[chosen]) else []
    with pytest.raises(UsageError, match=message):
        detector.remember(batches)
    assert not detector.trained
    for key, tensor in before.items():
        assert torch.equal(detector.learned_state()[key], tensor)


# ------------------------------------------------------------------ and read
def test_equal_keys_give_the_share_of_anomalous_ones() -> None:
    memory = LabelledMemory(4)
    memory.fill(torch.eye(4)[:1].expand(5, 4), torch.tensor([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 3))
    torch.testing.assert_close(memory(F.normalize(torch.randn(2, 3, 4), dim=-1)), torch.full((2, 3), 0.4))


def test_queries_are_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, queries = LabelledMemory(8, 4), F.normalize(torch.randn(2, 7, 8), dim=-1)
    whole = memory(queries)
    monkeypatch.setattr(labelled_memory, "BLOCK", 6)
    torch.testing.assert_close(memory(queries), whole)


def test_projected_queries_are_the_published_product() -> None:
    """The keys stay as they are: what their projection's bias adds is the same for all of them."""
    memory, queries = LabelledMemory(8, 4), F.normalize(torch.randn(1, 7, 8), dim=-1)
    memory.fill(F.normalize(torch.randn(9, 8), dim=-1), torch.eye(2)[torch.arange(9) % 2])
    published = (memory.query(queries) @ memory.key(memory.keys).T).softmax(-1) @ memory.values
    torch.testing.assert_close(memory(queries), published[..., 1])


def test_the_nearest_keys_are_hidden_as_by_a_quantile() -> None:
    memory = LabelledMemory(6)
    for count in (2, 6, 11, 21):
        memory.fill(F.normalize(torch.randn(count, 6), dim=-1), torch.eye(2)[torch.arange(count) % 2])
        cosine = (queries := F.normalize(torch.randn(1, 5, 6), dim=-1)) @ memory.keys.T
        for quantile in (0.8, 0.95):
            hidden = cosine > cosine.quantile(quantile, dim=-1, keepdim=True)
            expected = cosine.masked_fill(hidden, -torch.inf).softmax(-1) @ memory.values[:, 1]
            torch.testing.assert_close(memory(queries, quantile), expected)


def test_zeros_outside_the_grid_count() -> None:
    found = neighbour_mean(torch.ones(1, 25, 1), (5, 5)).unflatten(1, (5, 5))[0, ..., 0]
    assert found[2, 2] == pytest.approx(1.0)
    assert found[0, 0] == pytest.approx((1 + 4 / 9 + 9 / 25) / 3)


def test_scores_do_not_depend_on_the_batch(filled: Any) -> None:
    images, context = examples(4, seed=3).images, filled.prepare()
    with torch.inference_mode():
        together = filled(images, context)
        for index in range(4):
            alone = filled(images[index : index + 1], context)
            torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-6)
            torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-6)


def test_the_path_begins_with_the_second_layer(tower: Any) -> None:
    assert tower.depth == 12
    starts = [zsad.methods.mrad.MRAD.recipe.local_layer(depth) for depth in (12, 24)]
    assert starts == [2, 2]


# ------------------------------------------------------------------ training
def test_training_free_has_nothing_to_train(filled: Any) -> None:
    with pytest.raises(UsageError, match="mrad has nothing to train"):
        filled.loss(examples(), filled.prepare())
    assert not [key for key, p in filled.named_parameters() if p.requires_grad]


def test_a_tuned_one_needs_training_after_the_memory(tower: Any) -> None:
    detector, step = build(tower, projections=True), examples()
    detector.remember([step])
    with pytest.raises(NotTrained, match="mrad has no learned weights yet"):
        detector.require_trained()
    parts = detector.loss(Batch(detector.encode(step.images), step.labels, None, step.names), detector.prepare())
    assert set(parts) == {"picture"}
    parts = detector.loss(step, detector.prepare())
    assert set(parts) == {"picture", "focal", "dice"}
    sum(parts.values()).backward()  # type: ignore[union-attr]
    reached = {key for key, p in detector.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    learned = {key for key, p in detector.named_parameters() if p.requires_grad}
    assert reached == learned - set(detector.dead)
    assert detector.schedule.lr_schedule == "cosine"


# ------------------------------------------------------------------ checkpoints
@pytest.mark.parametrize("tuned", [False, True])
def test_a_folder_of_the_authors_files(tower: Any, filled: Any, tmp_path: Path, tuned: bool) -> None:
    wide = tower.visual.proj.shape  # 64 -> 32 here; the authors' projections end in the joint dimension
    proof.write_bank(filled, tmp_path)
    if tuned:
        layers = {"fc.0": wide, "fc.1": wide, "mlp1": (wide[1],) * 2, "mlp2": (wide[1],) * 2}
        state = {
            name: {"weight": torch.randn(rows, columns), "bias": torch.randn(rows)} for name, (columns, rows) in layers.items()
        }
        groups: dict[str, Any] = {"image_proj": {}, "patch_proj": {}}
        for name, tensors in state.items():
            group = groups["patch_proj" if name.startswith("fc") else "image_proj"]
            group |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        torch.save(groups, tmp_path / "mrad_ft_final.pth")
    found = zsad.create("mrad", backbone=tower, checkpoint=tmp_path)
    assert found.trained
    assert found.projections == tuned
    assert len(found.weights_sha256) == 64
    assert torch.equal(found.patch_memory.keys, filled.patch_memory.keys)
    if tuned:
        assert torch.equal(found.patch_memory.key.weight, state["fc.1"]["weight"])
        assert torch.equal(found.image_memory.query.bias, state["mlp1"]["bias"])
    found.save(tmp_path / "one.safetensors")
    again = zsad.create("mrad", backbone=tower, checkpoint=tmp_path / "one.safetensors")
    context, images = again.prepare(), examples(2, seed=4).images
    with torch.inference_mode():
        assert torch.equal(again(images, context).anomaly_map, found(images, context).anomaly_map)


def test_wrong_files_are_refused(tower: Any, filled: Any, tmp_path: Path) -> None:
    bank, name = proof.write_bank(filled, tmp_path), "cache_patch_model_other.pt"
    good = torch.load(bank / name, weights_only=True)

    def refused(state: Any, message: str) -> None:
        torch.save(state, bank / name)
        with pytest.raises(CheckpointMismatch, match=message):
            zsad.create("mrad", backbone=tower, checkpoint=bank)

    refused({"keys": good["keys"]}, r"missing: patch_memory\.values")
    refused(good | {"masks": torch.zeros(1)}, r"unexpected: patch_memory\.masks")
    refused(good | {"keys": torch.zeros(9, 5)}, r"patch_memory\.keys is \(9, 5\) instead of")
    refused(good | {"keys": good["keys"][1:]}, "has 8 keys and 9 labels; each key needs a label")
    refused(good | {"values": 0.5 * good["values"]}, "9 labels that are not one-hot")
    torch.save(good, bank / "cache_patch_model_more.pt")
    refused(good, "has 2 files 'cache_patch_model_")
    (bank / "cache_patch_model_more.pt").unlink()
    torch.save({"prompt_learner": {"ctx_pos": torch.zeros(1)}}, bank / "mrad_clip_final.pth")
    refused(good, r"unexpected: prompt_learner\.ctx_pos")
    (bank / "mrad_clip_final.pth").unlink()
    (bank / name).unlink()
    with pytest.raises(CheckpointMismatch, match=r"missing: patch_memory\.keys"):
        zsad.create("mrad", backbone=tower, checkpoint=bank)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceNotFound, match="has neither final"):
        zsad.create("mrad", backbone=tower, checkpoint=tmp_path / "empty")


def test_what_has_no_memory_does_not_score(tower: Any) -> None:
    with pytest.raises(NotTrained, match="mrad has no learned weights yet"):
        zsad.Inspector(build(tower))


# ------------------------------------------------------------------ plausible mistakes are seen
@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, Any]:
    reference = Reference(reference_folder(), "mrad")
    return reference, proof.backbone(reference, tmp_path_factory.mktemp("mrad"))


def no_mistake(patch: pytest.MonkeyPatch) -> None:
    """The comparison as it is."""


def temperature(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LabelledMemory, "project", lambda self, queries: queries / 0.07)


def padding_left_out(patch: pytest.MonkeyPatch) -> None:
    def inside(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        x = patches.transpose(1, 2).unflatten(2, grid)
        pooled = [F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False) for side in (1, 3, 5)]
        return torch.stack(pooled).mean(dim=0).flatten(2).transpose(1, 2)

    patch.setattr("zsad.methods.mrad.neighbour_mean", inside)


def corners_aligned(patch: pytest.MonkeyPatch) -> None:
    plain = zsad.methods.mrad.upsample
    patch.setattr("zsad.methods.mrad.upsample", lambda grid, size: plain(grid, size, align_corners=True))


def patches_normalised_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "zsad.references.labelled_memory.covered_means", lambda x, *rest: covered_means(F.normalize(x, dim=-1), *rest)
    )


def projected_patches(patch: pytest.MonkeyPatch) -> None:
    """``ln_post`` on the class token, as in most other methods."""
    plain = zsad.backbones.vit.VisionTransformer.project
    patch.setattr(
        "zsad.backbones.vit.VisionTransformer.project", lambda self, x, norm=True, proj=True: plain(self, x, proj=proj)
    )


@pytest.mark.parametrize(
    ("mistake", "arguments"),
    [
        (no_mistake, {}),
        (temperature, {}),
        (padding_left_out, {}),
        (corners_aligned, {}),
        (patches_normalised_first, {}),
        (projected_patches, {}),
        (no_mistake, {"local_start": 6}),
        (no_mistake, {"image_share": 0.5}),
    ],
)
def test_mistakes_are_seen(
    mistake: Callable[[pytest.MonkeyPatch], None],
    arguments: dict[str, Any],
    stored: tuple[Reference, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference, tower = stored
    mistake(monkeypatch)
    check = Comparisons(reference)
    with torch.inference_mode():
        proof.outputs(check, proof.untuned(reference, tower, **arguments), reference.pixels(), "tf/")
    assert all(one.passed for one in check.made) == (mistake is no_mistake and not arguments)
