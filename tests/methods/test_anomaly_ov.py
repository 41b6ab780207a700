"""Anomaly-OV's expert: every formula recomputed plainly on a small random SigLIP tower, checkpoints, laws and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zsad
from zsad.alignment import look_twice
from zsad.errors import CheckpointMismatch, NotTrained, UsageError
from zsad.methods import anomaly_ov
from zsad.types import Batch, Context, References

SIDE, WIDTH = 42, 32  # 3 x 3 patches: an odd grid, whose quarters overlap
NAMES = {
    *("positive_embedding", "negative_embedding"),
    *(
        f"{part}.{kind}"
        for part in ("pooling_layer.0", "class_predictor.0", "class_predictor.2")
        for kind in ("weight", "bias")
    ),
    *(f"{part}.{i}.{kind}" for part in ("siglip_adaptors", "prompt_adaptors") for i in range(4) for kind in ("weight", "bias")),
    *(f"final_predictor.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
    *(f"q_former.{part}.{kind}" for part in ("query_proj", "key_proj") for kind in ("weight", "bias")),
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A SigLIP of eight layers with random weights, by the way of any folder of Hugging Face."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SiglipVisionModel(SiglipVisionConfig(image_size=SIDE, patch_size=14, **sizes))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    return zsad.load_backbone(f"hf:{folder}")


@pytest.fixture(scope="module")
def detector(tower: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        found = anomaly_ov.AnomalyOV(tower, dim=16)
    found.trained = True
    return found.eval()


def pictures(count: int, seed: int = 3) -> Any:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 255, (50 + 7 * i, 64, 3)).astype(np.uint8) for i in range(count)]


def inputs(detector: Any, count: int) -> torch.Tensor:
    return torch.stack([detector.preprocess(one) for one in pictures(count)])


def plain(detector: Any, views: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Score and suspicions (N, L) of one picture's views (N, 3, S, S), written out token by token."""
    state = {key: value for key, value in detector.state_dict().items() if not key.startswith("backbone.")}
    layers, last = detector.layers, detector.backbone.depth - 1

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    hidden = detector.backbone.tower(views, output_hidden_states=True).hidden_states
    final = hidden[last]
    pooled = torch.stack([linear("pooling_layer.0", final[0][:, c])[0] for c in range(WIDTH)])
    kind = linear("class_predictor.2", F.gelu(linear("class_predictor.0", pooled)))
    maps = []
    for view in range(len(views)):
        levels = []
        for i, layer in enumerate(layers):
            prompts = [linear(f"prompt_adaptors.{i}", torch.cat([state[f"{sign}_embedding"][0], kind])) for sign in SIGNS]
            places = []
            for token in hidden[layer][view]:
                patch = linear(f"siglip_adaptors.{i}", token)
                normal, anomalous = (100 * torch.dot(patch / patch.norm(), prompt / prompt.norm()) for prompt in prompts)
                places.append(torch.exp(anomalous - torch.logaddexp(normal, anomalous)))
            levels.append(torch.stack(places))
        maps.append(torch.stack(levels).mean(dim=0))
    total, weights = torch.zeros(WIDTH), torch.zeros(())
    for view, suspicion in enumerate(maps):
        for rows in ((0, 1), (1, 2)):
            for columns in ((0, 1), (1, 2)):
                cell = [3 * r + c for r in rows for c in columns]
                token = sum(final[view][n] * suspicion[n] for n in cell) / sum(suspicion[n] for n in cell)
                query = linear("q_former.query_proj", token)
                attention = torch.softmax(linear("q_former.key_proj", final[view]) @ query / len(query) ** 0.5, dim=0)
                weight = suspicion[cell].mean() * suspicion.mean()
                total, weights = total + weight * (attention @ final[view]), weights + weight
    logit = linear("final_predictor.2", F.gelu(linear("final_predictor.0", total / weights)))
    return float(torch.sigmoid(logit)), torch.stack(maps)


SIGNS = ("positive", "negative")


def test_every_formula(detector: Any) -> None:
    images = inputs(detector, 2)
    assert images.shape == (2, 3, 5 * SIDE, SIDE)
    with torch.no_grad():
        features = detector.encode(images)
        found, suspicions = detector.score(features, Context()), detector.suspicions(features)
        for i in range(2):
            score, maps = plain(detector, images[i].unflatten(1, (5, SIDE)).transpose(0, 1))
            assert found.pred_score[i].item() == pytest.approx(score, abs=1e-5)
            torch.testing.assert_close(suspicions[i], maps, atol=1e-5, rtol=0)
            small = F.interpolate(maps[:1].view(1, 1, 3, 3), size=SIDE, mode="bilinear")[0, 0]
            cells = torch.cat([torch.cat([maps[1 + 2 * r + c].view(3, 3) for c in range(2)], dim=1) for r in range(2)])
            whole = F.interpolate(cells[None, None], size=SIDE, mode="bilinear")[0, 0]
            torch.testing.assert_close(found.anomaly_map[i], (small + whole) / 2, atol=1e-5, rtol=0)


def test_layers_are_in_proportion(detector: Any) -> None:
    assert detector.layers == (2, 3, 5, 7)
    assert detector.last == 7
    assert anomaly_ov.AnomalyOV.recipe.layers(27) == (7, 13, 19, 25)


def test_batches_change_nothing(detector: Any) -> None:
    images = inputs(detector, 3)
    with torch.inference_mode():
        whole = detector(images, Context())
        for i in range(3):
            one = detector(images[i : i + 1], Context())
            torch.testing.assert_close(one.pred_score[0], whole.pred_score[i])
            torch.testing.assert_close(one.anomaly_map[0], whole.anomaly_map[i])


def test_the_inspector_takes_it(detector: Any) -> None:
    for picture, result in zip(pictures(2), zsad.Inspector(detector)(pictures(2)), strict=True):
        assert result.anomaly_map.shape == picture.shape[:2]
        assert 0 <= result.pred_score <= 1


def test_references_are_fused(detector: Any) -> None:
    images = inputs(detector, 1)
    with torch.inference_mode():
        plain_map = detector(images, detector.prepare()).anomaly_map
        known = detector(images, detector.prepare("nut", References(images))).anomaly_map
    torch.testing.assert_close(known, plain_map / 2, atol=1e-5, rtol=0)  # it lies nearest to itself


# ------------------------------------------------------------------ checkpoints
def test_the_authors_names(detector: Any, tmp_path: Path) -> None:
    assert set(detector.learned_state()) == NAMES
    state = {key: value.clone() for key, value in detector.learned_state().items()}
    torch.save(state, tmp_path / "pretrained_expert_7b.pth")
    loaded = zsad.create("anomaly_ov", backbone=detector.backbone, checkpoint=tmp_path / "pretrained_expert_7b.pth")
    assert loaded.dim == 16
    images = inputs(detector, 1)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images, Context()).pred_score, detector(images, Context()).pred_score)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("q_former.key_proj.weight"), "q_former.key_proj.weight"),
        (lambda state: state.update(surplus=torch.zeros(2)), "surplus"),
        (lambda state: state.update({"pooling_layer.0.weight": torch.zeros(1, 729)}), "pooling_layer.0.weight"),
    ],
)
def test_wrong_files_are_refused(change: Any, message: str, detector: Any, tmp_path: Path) -> None:
    state = {key: value.clone() for key, value in detector.learned_state().items()}
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(CheckpointMismatch, match=message):
        zsad.create("anomaly_ov", backbone=detector.backbone, checkpoint=tmp_path / "wrong.pth")


def test_what_cannot_be(detector: Any) -> None:
    with pytest.raises(NotTrained):
        zsad.Inspector("anomaly_ov", backbone=detector.backbone)
    with pytest.raises(UsageError, match="cells=-1"):
        anomaly_ov.AnomalyOV(detector.backbone, cells=-1, dim=4).prepare()


def test_the_loss_reaches_every_tensor(detector: Any) -> None:
    batch = Batch(inputs(detector, 2), torch.tensor([0, 1]), None, ["nut", "nut"])
    loss = detector.loss(batch, Context())["picture"]
    scores = detector(batch.images, Context()).pred_score.detach()
    by_hand = -(torch.log(1 - scores[0]) + torch.log(scores[1])) / 2
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4)
    learned = {key: value for key, value in detector.named_parameters() if key in NAMES}
    gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)


# ------------------------------------------------------------------ mistakes are seen
@pytest.mark.parametrize("mistake", ["sharpness", "last block", "level"])
def test_mistakes_are_seen(mistake: str, detector: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = inputs(detector, 1)
    with torch.no_grad():
        score, maps = plain(detector, images[0].unflatten(1, (5, SIDE)).transpose(0, 1))
        if mistake == "sharpness":
            monkeypatch.setattr(look_twice, "SHARPNESS", 10.0)
        elif mistake == "last block":
            monkeypatch.setattr(detector, "last", detector.backbone.depth)
        else:
            monkeypatch.setattr(detector, "layers", (1, 3, 5, 7))
        features = detector.encode(images)
        found, suspicions = detector.score(features, Context()), detector.suspicions(features)
    assert abs(found.pred_score.item() - score) > 1e-4 or (suspicions[0] - maps).abs().max() > 1e-3
