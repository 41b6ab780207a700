"""Tipsomaly beside its authors' code (AlirezaSalehy/Tipsomaly, 7eb43a7), and TIPS beside theirs (google-deepmind/tips)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.maps import upsample
from zsad.errors import UsageError
from zsad.images.preprocessing import Squash
from zsad.prompts.prompt_set import encode_ensemble
from zsad.registry import create, load_backbone
from zsad.types import Batch, Context
from zsad.verification.compare import Comparisons
from zsad.verification.proof import Proof
from zsad.verification.reference import Reference
from zsad.verification.tiny_clip import fingerprint, random_tensor
from zsad.verification.tiny_tips import tiny_tips_text, tiny_tips_vision

__all__ = ["PROOF", "backbone", "batch", "build", "write_prompts"]

VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "fixed/": {"learned_map": False},
    "learned/": {"learned_score": True},
    "noagg/": {"aggregate": False},
}
TOWERS: dict[str, dict[str, Any]] = {"": {}, "down/": {"image_size": 224}, "swiglu/": {"swiglu": True}}
BLOCKS = (1, 6, 12)  # whose states are stored
ELEMENTS = 5e-4  # of a gradient's largest element: ReLU has kinks
STEP = 1e-6  # of an optimizer's step of 1e-3
GREY = 1.01 / 255  # one grey level, by which resizes of different versions of Pillow are apart
LOSSES = {"pxl_ls_fc": "focal", "plx_ls_dc_p": "dice", "plx_ls_dc_n": "dice normal"}


def _checked(state: dict[str, Tensor], stored: str, reference: Reference) -> dict[str, Any]:
    """As arrays. Raises ``UsageError`` where these are not the weights that the authors' code ran on."""
    if (found := fingerprint(state)) != stored:
        raise UsageError(
            f"The weights of {reference.name!r} that were generated here have the fingerprint {found[:12]}, the stored outputs "
            f"belong to {stored[:12]}. Please report this, with the version of numpy."
        )
    return {key: tensor.numpy() for key, tensor in state.items()}


def backbone(reference: Reference, folder: Path, tower: str = "") -> Any:
    """The tiny TIPS, from files such as the published ones."""
    facts, seed = reference.settings["tips"], reference.settings["seed"]
    own = folder / (tower.rstrip("/") or "tips")
    own.mkdir(exist_ok=True)
    vision = _checked(tiny_tips_vision(seed, **TOWERS[tower]), facts[f"fingerprint_{tower.rstrip('/') or 'vision'}"], reference)
    np.savez(own / "tiny_vision.npz", **vision)
    if not (folder / "tiny_text.npz").is_file():
        np.savez(folder / "tiny_text.npz", **_checked(tiny_tips_text(seed), facts["fingerprint_text"], reference))
        (folder / "tokenizer.model").write_bytes(reference["tokenizer_model"].tobytes())
    files: dict[str, Any] = {"text": folder / "tiny_text.npz", "tokenizer": folder / "tokenizer.model"}
    return load_backbone(f"tips:{own}", image_size=reference.settings["image_size"], **files)


def write_prompts(reference: Reference, path: Path, length: int = 8, width: int = 128) -> Path:
    """Learned tokens in the layout of the authors' training program."""
    seed = reference.settings["seed"]
    names = [f"tipsomaly/learnable_prompts.{number}" for number in range(2)]
    tokens = [torch.nn.Parameter(random_tensor(seed, name, (length, width), 0.5)) for name in names]
    torch.save({"learnable_prompts": torch.nn.ParameterList(tokens)}, path)
    return path


def build(reference: Reference, folder: Path, tower: Any = None, **arguments: Any) -> Any:
    """The method on the tiny weights, from a checkpoint in the authors' layout."""
    checkpoint = write_prompts(reference, folder / "prompts.pth")
    return create("tipsomaly", backbone=tower or backbone(reference, folder), checkpoint=checkpoint, **arguments)


def pixels(reference: Reference) -> Tensor:
    """(N, 3, H, W) in 0 to 1."""
    return reference.tensor("input_uint8").permute(0, 3, 1, 2).float() / 255


def batch(reference: Reference) -> Batch:
    """The authors' training step."""
    labels = torch.tensor(reference.settings["train"]["labels"])
    return Batch(pixels(reference), labels, reference.tensor("mask_112"), ("object",) * len(labels))


def run(reference: Reference, check: Comparisons, folder: Path) -> None:
    """Preprocessing, both towers, tokens, text, scores and maps of all variants, one step of training."""
    tower, images = backbone(reference, folder), pixels(reference)
    _pictures(reference, check, tower.preprocess, images)
    with torch.inference_mode(), _texts_once(tower):
        for name in TOWERS:
            _vision(check, tower if not name else backbone(reference, folder, name), images, name)
        _steps(check, tower, images[:1])
        _text(reference, check, build(reference, folder, tower))
        for stem, arguments in VARIANTS.items():
            _outputs(reference, check, [build(reference, folder, tower, class_token=n, **arguments) for n in (1, 2)], stem)
    _training(check, build(reference, folder, tower), batch(reference))


@contextmanager
def _texts_once(tower: Any) -> Iterator[None]:
    """Sentences that variants share are encoded once, with each set of learned tokens; whoever asks again gets a copy."""
    plain, known = tower.encode_text, dict[Any, Tensor]()

    def encode_text(sentences: Sequence[str], prefix: Tensor | None = None) -> Tensor:
        key = tuple(sentences), None if prefix is None else prefix.numpy(force=True).tobytes()
        if key not in known:
            known[key] = plain(sentences, prefix)
        return known[key].clone()

    with patch.object(tower, "encode_text", encode_text):
        yield


def _pictures(reference: Reference, check: Comparisons, preprocess: Squash, images: Tensor) -> None:
    check("inputs", "input_first", images[:1])
    if "images_uint8" not in reference:
        return
    apart = torch.stack([preprocess(one) for one in reference["images_uint8"]]) - images
    check.used("images_uint8")
    check.number("inputs", "input_uint8", apart.abs().max(), 0.0, tolerance=GREY)


def _vision(check: Comparisons, tower: Any, images: Tensor, stem: str) -> None:
    classes, patches = tower.encode_tokens(images[: check.reference.shape(f"{stem}class_token_1")[0]])
    shown = check.reference.shape(f"{stem}spatial_tokens")[0]
    for number in range(2):
        check("features", f"{stem}class_token_{number + 1}", F.normalize(classes[:, number], dim=-1))
    check("features", f"{stem}spatial_tokens", F.normalize(patches.patches[:shown], dim=-1))


def _steps(check: Comparisons, tower: Any, image: Tensor) -> None:
    """Inside the image tower, of the first picture."""
    features = tower.encode_image(image, BLOCKS)
    check("features", "embedded_tokens_image0", tower.vision.embed(image))
    for layer in BLOCKS:
        check("features", f"block_{layer}_patches_image0", features.taps[layer].patches)
    check("features", "final_unnormalised_class_tokens_image0", tower.encode_tokens(image)[0])


def _text(reference: Reference, check: Comparisons, detector: Any) -> None:
    settings, tower = reference.settings, detector.backbone
    fixed, learned = settings["fixed_class_names"], settings["learned_class_names"][0]
    prompts = {f"fixed_class{n}": detector.prepare(name).sentences for n, name in enumerate(fixed)}
    prompts[f"learned_{learned}"] = detector.prepare(learned).sentences
    for kind, stem in (("medical", "medical"), ("plain", "object_agnostic")):
        context = create("tipsomaly", backbone=tower, prompts=kind, learned_map=False).prepare(fixed[0])
        prompts[f"{stem}_class0"] = context.sentences
        check("text", f"text_features_{stem}", context.text)
    for key, sentences in prompts.items():
        lines = [*sentences["normal"], *sentences["anomalous"]]
        check.equal("sentences", f"prompts/{key}", lines, settings["prompts"][key])
        if f"token_ids/{key}" in reference:
            ids = tower.tokenize(lines)
            padded = torch.stack(
                [F.pad(torch.tensor(row), (0, reference.shape(f"token_ids/{key}")[1] - len(row))) for row in ids]
            )
            check("sentences", f"token_ids/{key}", padded)
            check("sentences", f"token_lengths/{key}", torch.tensor([len(row) for row in ids]))
    check("text", "sentence_embeddings/fixed_class0", tower.encode_text(settings["prompts"]["fixed_class0"]))
    own, count = settings["prompts"][f"learned_{learned}"], settings["n_normal_sentences"]
    halves = (own[:count], detector.prefix.normal), (own[count:], detector.prefix.anomalous)
    embedded = torch.cat([tower.encode_text(lines, prefix) for lines, prefix in halves])
    check("text", f"sentence_embeddings/learned_{learned}", embedded)
    texts = [encode_ensemble(tower, [*detector.prepare(name).sentences.values()]) for name in fixed]
    check("text", "text_features_fixed", torch.cat(texts))
    check("text", "text_features_learned", detector.prepare().text)


def _outputs(reference: Reference, check: Comparisons, detectors: list[Any], stem: str) -> None:
    """Probabilities, scores of both class tokens, and maps; each picture with the name of its folder."""
    images, names = pixels(reference), reference.settings["folder_names"]
    classes = [names[index * len(names) // len(images)] for index in range(len(images))]
    contexts: dict[str, Context] = {name: detectors[0].prepare(name) for name in names}
    tokens, patches, scores, maps, raw = [], [], [], [], []
    for image, name in zip(images, classes, strict=True):
        features = [detector.encode(image[None]) for detector in detectors]
        found = [detector.score(one, contexts[name]) for detector, one in zip(detectors, features, strict=True)]
        grid = detectors[0].patch_scores(features[0], contexts[name])
        scores.append(torch.cat([one.pred_score for one in found]))
        tokens.append(scores[-1] - grid.max() if detectors[0].aggregate else scores[-1])
        patches.append(grid.flatten())
        maps.append(found[0].anomaly_map[0])
        raw.append(upsample(grid, detectors[0].backbone.image_size)[0])
    check("scores", f"{stem}image_score", torch.stack(scores))
    for key, values in ((f"{stem}token_probs", tokens), (f"{stem}patch_probs", patches)):
        anomalous = torch.stack(values)
        check("scores", key, torch.stack([1 - anomalous, anomalous], dim=-1))
    for key, values in ((f"{stem}anomaly_map", maps), (f"{stem}anomaly_map_raw", raw)):
        if key in reference:
            check("maps", key, torch.stack(values[: reference.shape(key)[0]]))


def _training(check: Comparisons, detector: Any, step: Batch) -> None:
    """One step of the published optimizer."""
    losses = detector.loss(step, detector.prepare())
    total = torch.stack([*losses.values()]).sum()
    total.backward()
    for key, name in LOSSES.items():
        check("losses", f"train/{key}", losses[name])
    check("losses", "train/epc_ls", total)
    learned = [detector.prefix.normal, detector.prefix.anomalous]
    optimizer = torch.optim.Adam(learned, lr=detector.schedule.lr, betas=detector.schedule.betas)
    for number, tokens in enumerate(learned):
        key = f"train/grad/learnable_prompts.{number}"
        largest = float(np.abs(check.reference.stored(key)[1]).max())
        check("gradients", key, tokens.grad, scale=largest, tolerance=ELEMENTS)
        norm = check.reference.settings["train"]["grad_norms"][f"learnable_prompts.{number}"]
        check.number("gradients", f"train/grad_norms/{number}", tokens.grad.norm(), norm)
        # the step is of the stored gradient: where that is as small as Adam's epsilon, rounding decides the direction
        tokens.grad = check.reference.tensor(key)
    optimizer.step()
    for number, tokens in enumerate(learned):
        check("gradients", f"train/after_step/learnable_prompts.{number}", tokens, scale=1.0, tolerance=STEP)


PROOF = Proof(
    "tipsomaly",
    "tipsomaly",
    run,
    inputs=("input_uint8", "mask_112", "tokenizer_model", "token_ids/*", "train/grad/*"),
    full_only=("images_uint8",),
    left_out={
        "masks_uint8": "where the drawn defects are; mask_112 holds them resized",
        "train/img_ls_ce": "logged by the authors' program, no part of the loss",
        "train/emb_l1_nrm": "logged by the authors' program, no part of the loss",
    },
)
