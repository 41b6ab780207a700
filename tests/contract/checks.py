"""Laws that every registered method obeys on a tiny backbone. Each check raises AssertionError; ``test_checks.py`` has a
detector that is broken on purpose for each."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor

import zsad
from zsad.detector import Detector
from zsad.errors import CheckpointMismatch, UsageError
from zsad.types import Batch, Context, Prediction, References

NAME = "metal gasket"


def pictures(detector: Any, count: int | None = None) -> Tensor:
    """Seeded preprocessed pictures (B, 3, H, W), each with its own texture; by default 3, or the smallest set."""
    count = count or max(3, getattr(detector, "smallest_set", 0))
    size = detector.backbone.image_size
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    return smooth * 2 - 1 + 0.2 * torch.randn(count, 3, size, size, generator=generator)


KEPT: WeakKeyDictionary[Any, dict[tuple[str, int], Any]] = WeakKeyDictionary()  # by detector, so that many checks share it


def once(detector: Any, what: str, count: int, make: Callable[[], Any]) -> Any:
    """``make()``, called once per detector, thing and number of references."""
    known = KEPT.setdefault(detector, {})
    if (what, count) not in known:
        known[what, count] = make()
    return known[what, count]


def prepared(detector: Any) -> Context:
    """``fresh``, made once per detector."""
    return once(detector, "context", 0, lambda: fresh(detector))  # type: ignore[no-any-return]


def shown(detector: Any, count: int) -> Context | None:
    """``with_references`` of the first pictures, made once per detector."""
    return once(detector, "context", count, lambda: with_references(detector, pictures(detector)[:count]))  # type: ignore[no-any-return]


def answers(detector: Any, count: int = 0) -> Prediction:
    """Of all pictures, with the first ``count`` as references; predicted once per detector."""
    context = shown(detector, count) if count else prepared(detector)
    assert context is not None
    return once(detector, "answers", count, lambda: predict(detector, pictures(detector), context))  # type: ignore[no-any-return]


def fresh(detector: Any) -> Context:
    """A context, with other normal pictures as references where the method scores with references alone."""
    few = detector.needs_references
    references = References(pictures(detector, few + 3)[3:].flip(-1)) if few else None
    return detector.prepare(NAME, references)  # type: ignore[no-any-return]


def predict(detector: Any, images: Tensor, context: Context) -> Prediction:
    with torch.inference_mode():
        if detector.needs_set(context):
            parts = list(detector.score_set([detector.encode(images[i : i + 1]) for i in range(len(images))], context))
            return Prediction(torch.cat([p.pred_score for p in parts]), torch.cat([p.anomaly_map for p in parts]))
        return detector(images, context)  # type: ignore[no-any-return]


def square(images: Tensor) -> Tensor:
    """Masks (B, H, W) of pictures (B, 3, H, W): the upper left third of each."""
    masks = torch.zeros(len(images), *images.shape[-2:])
    masks[:, : images.shape[-2] // 3, : images.shape[-1] // 3] = 1
    return masks


def with_references(detector: Any, chosen: Tensor) -> Context | None:
    """The context with these normal pictures; None where the method takes none and refuses them."""
    try:
        with torch.inference_mode():
            return detector.prepare(NAME, References(chosen))  # type: ignore[no-any-return]
    except UsageError:
        return None


def check_shapes_and_finite(detector: Any) -> None:
    images = pictures(detector)
    found = answers(detector)
    size = detector.backbone.image_size
    assert found.pred_score.shape == (len(images),), found.pred_score.shape
    assert found.anomaly_map.shape == (len(images), size, size), found.anomaly_map.shape
    assert found.pred_score.dtype == found.anomaly_map.dtype == torch.float32
    assert torch.isfinite(found.pred_score).all()
    assert torch.isfinite(found.anomaly_map).all()


def check_repeatable(detector: Any) -> None:
    first, second = answers(detector), predict(detector, pictures(detector), prepared(detector))
    torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=0)
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=0)


def check_same_answers_in_every_mode(detector: Any) -> None:
    """A method that learns while it scores may do so wherever it is called, and its answers carry no gradient."""
    images, context = pictures(detector), prepared(detector)
    with torch.no_grad():
        features = detector.encode(images)
        parts = [features[i : i + 1] for i in range(len(images))]
        found = list(detector.score_set(parts, context)) if detector.needs_set(context) else [detector.score(features, context)]
    scores, maps = torch.cat([one.pred_score for one in found]), torch.cat([one.anomaly_map for one in found])
    inside = answers(detector)
    assert not any(tensor.requires_grad for tensor in (scores, maps, inside.pred_score, inside.anomaly_map))
    torch.testing.assert_close(scores, inside.pred_score, rtol=0, atol=1e-5)
    torch.testing.assert_close(maps, inside.anomaly_map, rtol=0, atol=1e-5)


def check_sees_the_picture(detector: Any) -> None:
    found = answers(detector)
    assert found.pred_score.std() > 0, "three different pictures got the same score"
    assert found.anomaly_map.flatten(1).std(dim=1).min() > 0, "a map is constant"


def check_independent_of_batch_and_order(detector: Any) -> None:
    images, context = pictures(detector), prepared(detector)
    together = answers(detector)
    turned = predict(detector, images.flip(0), context)
    torch.testing.assert_close(turned.pred_score.flip(0), together.pred_score, rtol=0, atol=1e-5)
    torch.testing.assert_close(turned.anomaly_map.flip(0), together.anomaly_map, rtol=0, atol=1e-5)
    if detector.needs_set(context):
        return
    for index in range(len(images)):
        alone = predict(detector, images[index : index + 1], context)
        torch.testing.assert_close(alone.pred_score, together.pred_score[index : index + 1], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.anomaly_map, together.anomaly_map[index : index + 1], rtol=0, atol=1e-5)


def check_forward_is_score_of_encode(detector: Any) -> None:
    images, context = pictures(detector), prepared(detector)
    if detector.needs_set(context):
        return
    with torch.inference_mode():
        features = detector.encode(images)
        one = detector.score(features[1:2], context)
    torch.testing.assert_close(one.pred_score, answers(detector).pred_score[1:2], rtol=0, atol=1e-5)


def snapshot(detector: Any) -> dict[str, Any]:
    """What a detector and its modules hold, by identity, and the bytes of its tensors."""
    held = {
        f"{name}.{key}": id(value)
        for name, module in detector.named_modules()
        for key, value in vars(module).items()
        if key not in ("_parameters", "_buffers", "_modules")
    }
    return held | {key: tensor.double().sum().item() for key, tensor in detector.state_dict().items()}


def check_writes_nothing(detector: Any) -> None:
    before = snapshot(detector)
    images = pictures(detector)
    predict(detector, images, fresh(detector))
    assert snapshot(detector) == before, "prepare, encode or score wrote on the detector"
    if (context := with_references(detector, images[:1])) is not None:
        predict(detector, images, context)
        assert snapshot(detector) == before, "references were kept on the detector"


def check_constructor_only_stores(detector: Any) -> None:
    plain = type(detector)(**detector.frozen_encoders())
    for key, value in plain.arguments().items():
        parameter = inspect.signature(type(detector).__init__).parameters[key]
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, "a method takes explicit keywords"
        assert parameter.default is not inspect.Parameter.empty, f"{key} has no default"
        assert value == parameter.default, f"{key} was changed by the constructor"


def check_encoders_are_frozen_and_named(detector: Any) -> None:
    """No encoder learns, none is in a checkpoint, and the checkpoint's header names each."""
    for keyword, encoder in detector.frozen_encoders().items():
        assert not any(p.requires_grad for p in encoder.parameters()), f"{keyword} learns"
        assert not any(key.startswith(f"{keyword}.") for key in detector.learned_state()), f"{keyword} is saved"
    with tempfile.TemporaryDirectory() as folder:
        header = detector.save(Path(folder) / "learned.safetensors")
    assert header["backbone"]["name"] == detector.backbone.name
    used = {key for key in detector.encoders if getattr(detector, key) is not None}
    assert header.get("encoders", {}).keys() == used, "an encoder is not in the header"


def check_gradients_reach_all_and_only_learned(detector: Any) -> None:
    """A method lists its dead tensors in ``dead``; the rest of its parameters must get a gradient from its loss."""
    own = detector.learned_state().keys()
    learned = {name: p for name, p in detector.named_parameters() if name in own}
    if not learned or type(detector).loss is Detector.loss:  # it has nothing to train
        return
    images = pictures(detector, 2)
    masks = square(images) * torch.tensor([0, 1])[:, None, None]
    drawn = detector.schedule.references  # per picture
    references = pictures(detector, 2 + 2 * drawn)[2:] if drawn else None
    batch = Batch(images, torch.tensor([0, 1]), masks, (NAME, NAME), references=references)
    detector.zero_grad()
    sum(detector.loss(batch, prepared(detector)).values()).backward()  # type: ignore[union-attr]
    dead = set(getattr(detector, "dead", ()))
    for name, parameter in learned.items():
        reached = parameter.grad is not None and parameter.grad.abs().sum() > 0
        assert reached != (name in dead), f"{name}: gradient {'reaches it' if reached else 'is missing'}"
    assert all(p.grad is None for encoder in detector.frozen_encoders().values() for p in encoder.parameters())
    detector.zero_grad()


def check_checkpoint_round_trips(detector: Any) -> None:
    state = detector.learned_state()
    if not state:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "learned.safetensors"
        detector.save(path)
        twin = zsad.create(detector.name, checkpoint=path, **detector.arguments(), **detector.frozen_encoders())
        for key, tensor in twin.learned_state().items():
            torch.testing.assert_close(tensor, state[key], rtol=0, atol=0)
        key = next(iter(state))
        for broken in ({k: t for k, t in state.items() if k != key}, state | {"surplus": torch.zeros(1)}):
            try:
                twin.load_learned(broken)
            except CheckpointMismatch:
                continue
            raise AssertionError("a checkpoint with a wrong key was loaded")


def check_context_moves_and_saves(detector: Any) -> None:
    context = prepared(detector)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "context.safetensors"
        context.save(path)
        again = Context.load(path)
    images = pictures(detector)
    torch.testing.assert_close(
        predict(detector, images, again.to("cpu")).pred_score, answers(detector).pred_score, rtol=0, atol=0
    )
    assert dict(context.sentences) == dict(again.sentences)


def check_references_give_finite_repeatable_answers(detector: Any) -> None:
    images = pictures(detector)
    if (again := with_references(detector, images[:2])) is None:
        return
    first, second = answers(detector, 2), predict(detector, images, again)
    assert torch.isfinite(first.pred_score).all()
    assert torch.isfinite(first.anomaly_map).all()
    assert first.anomaly_map.shape == (len(images), *images.shape[-2:]), first.anomaly_map.shape
    torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=0)
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=0)


def check_references_are_used(detector: Any) -> None:
    if shown(detector, 1) is None:
        return
    plain, found = answers(detector), answers(detector, 1)
    assert (found.pred_score - plain.pred_score).abs().max() > 1e-5, "references change no score"
    assert (found.anomaly_map - plain.anomaly_map).abs().max() > 1e-5, "references change no map"


def check_references_are_banks_and_nothing_else(detector: Any) -> None:
    """What leaving a reference out relies on: all that a context has of the references are the banks, as they were given."""
    if (context := shown(detector, 2)) is None:
        return
    with torch.inference_mode():
        plain, again = detector.prepare(NAME), detector.prepare(NAME, References(banks=context.banks))
    for found in (context, again):
        assert dict(found.sentences) == dict(plain.sentences)
        assert found.words == plain.words
        assert found.extra.keys() == plain.extra.keys(), "references are kept in extra"
        pairs = [(found.extra[key], plain.extra[key]) for key in plain.extra]
        if plain.text is not None:
            pairs.append((found.text, plain.text))
        assert all(torch.equal(one, other) for one, other in pairs), "references change more than the banks"
    assert again.banks.keys() == context.banks.keys()
    for key, bank in context.banks.items():
        assert torch.equal(again.banks[key].rows, bank.rows), "banks that are given are changed"
        assert torch.equal(again.banks[key].source, bank.source)
        assert set(bank.source.tolist()) == {0, 1}, "a bank does not know its references"


def check_order_of_references_does_not_matter(detector: Any) -> None:
    images = pictures(detector)
    if (back := with_references(detector, images[:2].flip(0))) is None:
        return
    first, second = answers(detector, 2), predict(detector, images, back)
    torch.testing.assert_close(first.pred_score, second.pred_score, rtol=0, atol=1e-5)
    torch.testing.assert_close(first.anomaly_map, second.anomaly_map, rtol=0, atol=1e-5)


def check_own_reference_is_never_more_suspicious(detector: Any) -> None:
    """A picture among its own references is no more anomalous, in score and on average in its map, than with another's.

    Where scores belong to the set, maps alone are compared: a score is then relative to the other pictures'.
    """
    images = pictures(detector)
    if (own := shown(detector, 1)) is None or getattr(detector, "learned_comparison", False):
        return
    other = with_references(detector, images[1:2])
    assert other is not None
    near, far = answers(detector, 1), predict(detector, images, other)
    assert near.anomaly_map[0].mean() < far.anomaly_map[0].mean(), "a picture's own reference makes it more suspicious"
    assert detector.needs_set(own) or near.pred_score[0] <= far.pred_score[0] + 1e-5, "... and raises its score"


def check_context_with_references_saves(detector: Any) -> None:
    images = pictures(detector)
    if (context := shown(detector, 1)) is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "context.safetensors"
        context.save(path)
        again = predict(detector, images, Context.load(path).to("cpu"))
    torch.testing.assert_close(again.pred_score, answers(detector, 1).pred_score, rtol=0, atol=0)


def check_anomalous_references_count_or_are_refused(detector: Any) -> None:
    """Patches under a mask make what looks like them more anomalous; a method that takes normal references alone says so."""
    images = pictures(detector)
    given = References(images[1:2], images[:1], square(images[:1]))
    if not detector.takes_anomalous:
        with pytest.raises(UsageError):
            detector.prepare(NAME, given)
        return
    with torch.inference_mode():
        plain, context = (detector.prepare(NAME, one) for one in (References(images[1:2]), given))
    bad = {key: bank for key, bank in context.banks.items() if bank.sign < 0}
    assert bad, "anomalous references leave no bank of sign -1"
    for key, bank in bad.items():
        assert set(bank.source.tolist()) == {1}, "anomalous references are not counted behind the normal ones"
        assert 0 < len(bank.rows) < max(len(one.rows) for one in context.banks.values()), f"{key}: the mask chooses no rows"
    with tempfile.TemporaryDirectory() as folder:
        context.save(Path(folder) / "context.safetensors")
        kept = Context.load(Path(folder) / "context.safetensors")
    assert {key: bank.sign for key, bank in kept.banks.items()} == {key: bank.sign for key, bank in context.banks.items()}
    before, after, again = (predict(detector, images, one) for one in (plain, context, kept))
    torch.testing.assert_close(again.anomaly_map, after.anomaly_map, rtol=0, atol=0)
    inside, rise = square(images)[0] > 0, (after.anomaly_map - before.anomaly_map)[0]
    assert rise[inside].mean() > rise[~inside].mean(), "what looks like a shown defect is no more anomalous than the rest"


CHECKS: dict[str, Callable[[Any], None]] = {
    name.removeprefix("check_"): value for name, value in list(globals().items()) if name.startswith("check_")
}
