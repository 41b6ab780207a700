"""Registry of methods and backbones by name. It stores what registers itself and imports none of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from zsad.common.arguments import checked, fits
from zsad.common.threads import one_thread_after_fork
from zsad.errors import SizeMismatch, UnknownName, UsageError
from zsad.types import Backbone, Recipe

__all__ = [
    "create",
    "list_backbones",
    "list_methods",
    "load_backbone",
    "load_by_recipe",
    "method_class",
    "register",
    "register_backbone",
    "register_folders",
]

log = logging.getLogger("zsad")
Method = TypeVar("Method", bound=type)
Loader = Callable[..., Any]
_methods: dict[str, type] = {}
_backbones: dict[str, Loader] = {}
_folders: list[tuple[Callable[[str], bool], type, Loader]] = []  # of methods that a folder holds
_fixed: set[str] = set()  # backbones whose size and activation are their own, whatever a recipe says
_FALLBACK = "openclip:"  # a bare "architecture.tag" is an open_clip name


def register(name: str) -> Callable[[Method], Method]:
    """Class decorator: makes a ``Detector`` known as ``name``."""

    def add(cls: Method) -> Method:
        if name in _methods:
            raise UsageError(f"The method name {name!r} is taken by {_methods[name].__qualname__}; choose another.")
        cls.name = name  # type: ignore[attr-defined]
        _methods[name] = cls
        return cls

    return add


def register_backbone(name: str, *, fixed: bool = False) -> Callable[[Loader], Loader]:
    """Function decorator: makes a loader known as ``name``; a name that ends in ``:`` is a prefix ("file:").

    The loader is called with the full name and the keywords ``activation``, ``position_embedding``, ``image_size`` and
    those of its own. Where it is ``fixed``, a method's recipe does not change its size, activation or position embedding.
    """

    def add(loader: Loader) -> Loader:
        if name in _backbones:
            raise UsageError(f"The backbone name {name!r} is taken; choose another.")
        _backbones[name] = loader
        _fixed.update({name} if fixed else ())
        return loader

    return add


def register_folders(holds: Callable[[str], bool], cls: type, opener: Loader) -> None:
    """Makes folders known as methods: ``create("model/")``.

    Args:
        holds: whether a name, which is none of a method, means such a folder.
        cls: class of the detectors.
        opener: called with the name and the keywords of ``create``.
    """
    _folders.append((holds, cls, opener))


def _folder(name: str) -> tuple[type, Loader] | None:
    """Class and opener of the folder that a name means; None: it means none."""
    if name in _methods:
        return None
    return next(((cls, opener) for holds, cls, opener in _folders if holds(name)), None)


def list_methods() -> list[str]:
    """Names that ``create`` takes, sorted."""
    return sorted(_methods)


def list_backbones() -> list[str]:
    """Names and prefixes that ``load_backbone`` takes, sorted. A bare ``architecture.tag`` is an open_clip name."""
    return sorted(_backbones)


def method_class(name: str) -> Any:
    """The class behind a method's name, or an exported folder's; a tag behind a dot is left out of account.

    Raises:
        UnknownName: no such method.
    """
    if folder := _folder(name):
        return folder[0]
    stem = name.partition(".")[0]
    if stem not in _methods:
        raise UnknownName.among("method", stem, _methods)
    return _methods[stem]


@checked
def load_backbone(
    name: str,
    *,
    activation: str | None = None,
    position_embedding: str | None = None,
    image_size: int | None = None,
    **options: Any,
) -> Any:
    """Loads an image(-text) encoder by name, frozen, in evaluation mode, on the CPU.

    Args:
        name: ``"compact"`` (ships with zsad), ``"ViT-L-14-336.openai"`` (open_clip architecture.tag),
            ``"file:weights.pt"`` (a state dict on disk), ``"hf:org/name"`` (Hugging Face), ``"dinov2-large-registers"`` and
            its kin, ``"timm:vit_small_patch14_dinov2.lvd142m"``, ``"tiny"`` (tests).
        activation: ``"quick_gelu"`` or ``"gelu"``; None takes what the weights were trained with.
        position_embedding: how positions are resized: ``"bilinear"``, ``"bicubic"`` or ``"bicubic_antialias"``.
        image_size: side of the input in pixels; None takes the native one.
        **options: further keywords of one loader, such as ``heads=`` of ``file:``.

    Raises:
        UnknownName: no such backbone.
        WeightsError: its weights cannot be had or do not fit.
    """
    prefix = name.partition(":")[0] + ":" if ":" in name else ""
    if prefix and prefix not in _backbones:
        raise UnknownName.among("backbone", name, _backbones)
    loader = _backbones.get(prefix or name)
    if loader is None:
        if "." not in name:
            raise UnknownName.among("backbone", name, [*_backbones, "ViT-L-14-336.openai"])
        loader = _backbones[_FALLBACK]
    known = inspect.signature(loader).parameters
    for key in options:
        if key not in known:
            raise UnknownName.among(f"keyword of the backbone {name!r}", key, list(known)[1:])
    one_thread_after_fork()
    backbone = loader(name, activation=activation, position_embedding=position_embedding, image_size=image_size, **options)
    return backbone.eval().requires_grad_(False)


@checked
def create(name: str, *, backbone: str | Backbone | None = None, checkpoint: str | Path | None = None, **arguments: Any) -> Any:
    """Builds a method, in evaluation mode, on the CPU.

    Args:
        name: a method's name, ``"method.tag"`` for the checkpoint of that tag in ``checkpoints/index.toml``, or the path of a
            folder that ``zsad.export`` wrote.
        backbone: a name (loaded by the method's recipe), a built backbone, or None for the recipe's own.
        checkpoint: path of learned weights; overrides the tag.
        **arguments: the method's constructor keywords. Where one is left out, what the checkpoint was saved with (or what its
            shapes imply) is taken, then the paper's value. A keyword of a further encoder takes what ``backbone`` takes.

    Raises:
        UnknownName: no such method, tag or keyword.
        WeightsError: weights cannot be had or do not fit.

    Example:
        >>> import torch, zsad
        >>> detector = zsad.create("winclip", backbone="tiny")  # random weights, for tests
        >>> context = detector.prepare("metal nut")
        >>> prediction = detector(torch.zeros(2, 3, 240, 240), context)
        >>> prediction.pred_score.shape, prediction.anomaly_map.shape
        (torch.Size([2]), torch.Size([2, 240, 240]))
    """
    if folder := _folder(name):
        return folder[1](name, backbone=backbone, checkpoint=checkpoint, **arguments)
    cls = method_class(name)
    known = [key for key in inspect.signature(cls.__init__).parameters if key not in ("self", "backbone")]
    for key, value in arguments.items():  # before any weights are loaded
        if key not in known:
            raise UnknownName.among(f"argument of {cls.name!r}", key, known)
        _check_argument(cls, key, value)
    tag = name.partition(".")[2] or None
    asked = {key: arguments.pop(key, None) for key in cls.encoders}
    arguments = cls.stored_arguments(checkpoint, tag) | {
        k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()
    }
    backbone = _encoder(cls.name, cls.recipe, backbone)
    _check_backbone(cls, backbone)
    encoders = {
        key: None if asked[key] is None and one.optional in (True, *arguments.items()) else _encoder(cls.name, one, asked[key])
        for key, one in cls.encoders.items()
    }
    with torch.random.fork_rng(devices=[]):  # building a method never disturbs the caller's random numbers
        detector = cls(backbone, **encoders, **arguments)
    detector.restore(checkpoint=checkpoint, tag=tag)
    return detector.eval()


def _encoder(method: str, recipe: Recipe, given: Any) -> Any:
    """A built encoder: the given one, or the one of that name (None: the recipe's), loaded as the recipe asks."""
    if given is None or isinstance(given, str):
        return load_by_recipe(method, recipe, given or recipe.backbone)
    _compare(method, recipe, given)
    return given


def _check_backbone(cls: Any, backbone: Any) -> None:
    """Raises ``UsageError`` where a backbone lacks an attribute that the method reads."""
    missing = [part for part in cls.needs if not hasattr(backbone, part)]
    if missing:
        raise UsageError(
            f"{cls.name} cannot run on the backbone {backbone.name!r}, which has no {', '.join(missing)}. "
            f"Leave the backbone out to get {cls.recipe.backbone!r}, or name another."
        )


def _check_argument(cls: Any, key: str, value: Any) -> None:
    """A keyword must be of its default's kind; an int will do for a float, a list for a tuple."""
    parameter = inspect.signature(cls.__init__).parameters[key]
    if key in cls.encoders:
        if not fits(value, "str | Backbone | None", globals()):
            raise UsageError(f"{key} of {cls.name} takes an encoder or its name; got {value!r}.")
    elif not fits(value, str(parameter.annotation), cls.__init__.__globals__):
        raise UsageError(f"{key} of {cls.name} takes {parameter.annotation}, such as {parameter.default!r}; got {value!r}.")


def load_by_recipe(method: str, recipe: Recipe, name: str) -> Any:
    """Loads a backbone as the method's paper ran it; at the nearest size where its patches do not divide the recipe's."""
    if name in _fixed:
        return load_backbone(name)
    own = recipe.follows_weights and not name.startswith("file:")
    options = {"activation": None if own else recipe.activation, "position_embedding": recipe.position_embedding}
    try:
        return load_backbone(name, image_size=recipe.image_size, **options)
    except SizeMismatch as error:
        log.warning("%s was published at %d px; %s runs at %d px.", method, recipe.image_size, name, error.nearest)
        return load_backbone(name, image_size=error.nearest, **options)


def _compare(method: str, recipe: Recipe, backbone: Backbone) -> None:
    """Logs where a built encoder differs from the method's recipe."""
    for key in ("activation", "position_embedding"):
        wanted, got = getattr(recipe, key), getattr(backbone, key, "")
        if wanted and got and wanted != got:
            log.warning("%s was published with %s=%r; the given backbone has %r.", method, key, wanted, got)
    if backbone.image_size != recipe.image_size:
        log.info("%s was published at %d px; the given backbone runs at %d px.", method, recipe.image_size, backbone.image_size)
