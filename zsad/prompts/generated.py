"""A prompt set from a language model: properties of a flawless and of a flawed object in the sentences of a set."""

from __future__ import annotations

from zsad.errors import MissingExtra, UsageError
from zsad.explain.model import Failed, VisionLanguageModel, ask_checked
from zsad.prompts.prompt_set import PromptSet

__all__ = ["generate_prompts"]

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "a cropped photo of a {}.")


def generate_prompts(model: VisionLanguageModel, target: str) -> PromptSet:
    """Asks a model for properties, checks them, and makes phrases such as "{} with a bent edge" of them.

    What a model lists may be wrong or missing: look at the sentences before they decide anything.

    Raises:
        UsageError: no answer, or none of the form asked for in two tries.
        MissingExtra: ``zsad[explain]`` is not installed.
    """
    try:
        from zsad.explain import properties
    except ImportError as error:
        raise MissingExtra("Checking what a model answers", "explain") from error
    try:
        found = ask_checked(model, properties.ask_for(target), properties.read_properties)
    except Failed as error:
        where = f" at {model.where}" if model.where else ""
        raise UsageError(
            f"{model.name}{where} gave no answer: {error}. Check the address, the model's name and the key."
        ) from None
    if found.made is None:
        raise UsageError(
            f"{model.name} gave no list of properties in two tries ({found.why}). Try again or another model, or write the "
            "file by hand."
        )
    states = {
        "normal": ("flawless {}", *(f"{{}} with {one}" for one in found.made.flawless)),
        "anomalous": ("flawed {}", *(f"{{}} with {one}" for one in found.made.flawed)),
    }
    return PromptSet(states, TEMPLATES, f"asked of {model.name} for {target!r}; not reviewed")
