"""CLAP's laws, the bottleneck written out by hand, and mistakes that the comparison with the original outputs sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reference_sets import COMMITTED

import zsad
from zsad.alignment import bottleneck
from zsad.alignment.bottleneck import attribute, capacity
from zsad.errors import UsageError
from zsad.methods import clap
from zsad.types import References
from zsad.verification.compare import Comparisons
from zsad.verification.proofs import clap as proof
from zsad.verification.reference import Reference


@pytest.fixture(scope="module")
def tower() -> Any:
    return zsad.load_backbone("tiny", image_size=80, activation="quick_gelu")


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 80, 80, generator=torch.Generator().manual_seed(2))


def quick(tower: Any, **arguments: Any) -> Any:
    return zsad.create("clap", backbone=tower, **{"steps": 2, "copies": 2} | arguments)


def test_batches_change_nothing_and_seeds_do(tower: Any) -> None:
    detector = quick(tower)
    with torch.inference_mode():
        whole = detector(pictures(2), detector.prepare())
        for i in range(2):
            one = detector(pictures(2)[i : i + 1], detector.prepare())
            torch.testing.assert_close(one.anomaly_map[0], whole.anomaly_map[i], atol=1e-4, rtol=0)
        again, other = detector(pictures(1), detector.prepare()), quick(tower, seed=1)(pictures(1), detector.prepare())
    torch.testing.assert_close(again.anomaly_map[0], whole.anomaly_map[0], atol=1e-4, rtol=0)
    assert not torch.allclose(other.anomaly_map, again.anomaly_map, atol=1e-3)
    assert whole.anomaly_map.abs().max() <= 1


def test_equal_words_cancel(tower: Any) -> None:
    detector = quick(tower, words=("Normal",), normal_words=("Normal",))
    with torch.inference_mode():
        found = detector(pictures(1), detector.prepare())
    assert found.anomaly_map.abs().max() == 0


def test_draws_are_the_mean_of_seeds(tower: Any) -> None:
    with torch.inference_mode():
        context = quick(tower).prepare()
        singles = [quick(tower, seed=seed)(pictures(1), context).anomaly_map for seed in (3, 4)]
        both = quick(tower, seed=3, draws=2)(pictures(1), context).anomaly_map
    torch.testing.assert_close(both, (singles[0] + singles[1]) / 2, atol=1e-5, rtol=0)


def test_behind_is_the_rest_of_the_tower(tower: Any) -> None:
    detector = quick(tower)
    with torch.inference_mode():
        features = detector.encode(pictures(2))
        ((layer, tap),) = features.taps.items()
        tokens = torch.cat([tap.cls[:, None], tap.patches], dim=1)
        torch.testing.assert_close(detector.behind(tokens, layer), features.image, atol=1e-5, rtol=0)


def test_the_bottleneck_by_hand() -> None:
    """Capacity, gradient and Adam written out, for a tower that is a mean and a matrix."""
    draw = torch.Generator().manual_seed(0)
    tokens, text, matrix = (torch.randn(*shape, generator=draw) for shape in ((5, 4), (3,), (4, 3)))
    noise = [torch.randn(2, 5, 4, generator=draw) for _ in range(3)]
    found = attribute(tokens, text, lambda x: x.mean(dim=1) @ matrix, noise, beta=0.3, lr=0.7)
    alpha, first, second = torch.full((5, 4), 5.0), torch.zeros(5, 4), torch.zeros(5, 4)
    for step, drawn in enumerate(noise, 1):
        alpha = alpha.detach().requires_grad_()
        gate = 1 / (1 + torch.exp(-alpha))
        mean, variance = gate * tokens, (1 - gate) ** 2
        held = -0.5 * (1 + variance.log() - mean**2 - variance)
        passed = mean + variance.sqrt() * drawn
        similarity = F.normalize(passed.mean(dim=1) @ matrix, dim=1) @ F.normalize(text, dim=0)
        loss = 0.3 * held.mean() - similarity.mean()
        (gradient,) = torch.autograd.grad(loss, alpha)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        alpha = alpha - 0.7 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        torch.testing.assert_close(
            found.steps[step - 1], torch.stack([held.mean(), similarity.mean(), loss]), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(found.alpha, alpha, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.capacity, held.sum(dim=1), atol=1e-4, rtol=1e-5)


def test_an_open_gate_has_a_finite_capacity() -> None:
    assert torch.isfinite(capacity(torch.ones(2, 3), torch.ones(2, 3))).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": ()}, r"words=\(\) of clap: give at least one word"),
        ({"normal_words": ("Normal", " ")}, "normal_words=.* none that is empty"),
        ({"steps": 0}, "steps=0, copies=2"),
        ({"beta": 0.0}, "a positive beta"),
    ],
)
def test_what_cannot_be(arguments: dict[str, Any], message: str, tower: Any) -> None:
    with pytest.raises(UsageError, match=message):
        quick(tower, **arguments).prepare()


def test_references_are_fused(tower: Any) -> None:
    detector = quick(tower)
    with torch.inference_mode():
        plain = detector(pictures(1), detector.prepare())
        known = detector(pictures(1), detector.prepare("object", References(pictures(1))))
    torch.testing.assert_close(known.anomaly_map, plain.anomaly_map / 2, atol=1e-4, rtol=0)  # it lies nearest to itself


# ------------------------------------------------------------------ mistakes are seen
def _divergence(tokens: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    return capacity(tokens, gates) + 0.5  # the constant is forgotten


def _swapped(monkeypatch: pytest.MonkeyPatch, detector: Any) -> None:
    monkeypatch.setattr(proof, "SIGNS", ("positive", "negative"))


def _wrong_capacity(monkeypatch: pytest.MonkeyPatch, detector: Any) -> None:
    monkeypatch.setattr(bottleneck, "capacity", _divergence)


def _layer_too_late(monkeypatch: pytest.MonkeyPatch, detector: Any) -> None:
    detector.layer += 1


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [None, _swapped, _wrong_capacity, _layer_too_late])
def test_mistakes_are_seen(mistake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reference = Reference(COMMITTED, "clap")
    check, detector = Comparisons(reference), proof.build(reference, tmp_path)
    if mistake:
        mistake(monkeypatch, detector)
    with torch.no_grad():
        features, context = detector.encode(reference.pixels()[:1]), detector.prepare()
    proof._picture(check, detector, features, context, 0)
    failed = {one.output for one in check.made if not one.passed}
    assert ("0/clap_map_half" in failed or "0/positive/steps" in failed) == bool(mistake)


def test_relevance_is_scaled() -> None:
    found = clap.relevance(torch.arange(10.0), (3, 3), 12)
    assert (found.min(), found.max()) == (0, 1)
    assert clap.relevance(torch.ones(10), (3, 3), 12).abs().max() == 0
