"""A vision-language model from a folder, by transformers; nothing leaves the machine and nothing is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from zsad.errors import UsageError, WeightsError
from zsad.explain.question import Question

__all__ = ["LocalModel"]


class LocalModel:
    """Asks an image-text-to-text model of a folder, as ``save_pretrained`` of transformers writes it.

    Args:
        folder: with config, processor (with a chat template) and safetensors. Code of the folder is not executed, nor pickles.
        device: where it runs.

    Attributes:
        most_tokens: of an answer.
        name: the folder's, with eight digits of a digest of its config and of its files' sizes.

    Raises:
        UsageError: no such folder, or a model that takes no pictures.
        WeightsError: its files cannot be read.
    """

    where = ""  # nothing is sent
    parallel = 1
    most_tokens = 800

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise UsageError(
                f"{str(folder)!r} is no folder with a model (no config.json). Give one that transformers wrote, or --endpoint."
            )
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(path, **given)
            if type(config) not in AutoModelForImageTextToText._model_mapping:
                raise UsageError(
                    f"{path.name} ({config.model_type}) takes no pictures: it is no image-text-to-text model. Give one that is."
                )
            processor = AutoProcessor.from_pretrained(path, **given)
            model = AutoModelForImageTextToText.from_pretrained(path, use_safetensors=True, **given)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, UsageError):
                raise
            raise WeightsError(f"The model in {path.name} cannot be read: {str(error).splitlines()[0]}") from error
        if not getattr(processor, "chat_template", None):
            raise UsageError(f"{path.name} has no chat template, so it cannot be asked. Give a model that was tuned to answer.")
        self._processor, self._model = processor, model.to(device).eval()
        self._lock = Lock()
        self.name = f"{path.name}-{_digest(path)}"

    def close(self) -> None:
        """Nothing is open."""

    def __call__(self, question: Question) -> str:
        """The model's answer, its likeliest words."""
        content = [{"type": "image", "image": picture} for picture in question.pictures]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]
        with self._lock, torch.inference_mode():
            inputs = self._processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            ).to(self._model.device)
            made = self._model.generate(**inputs, max_new_tokens=self.most_tokens, do_sample=False)
        answer: str = self._processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return answer


def _digest(path: Path) -> str:
    found = hashlib.blake2b((path / "config.json").read_bytes(), digest_size=4)
    for file in sorted(path.glob("*.safetensors")):
        found.update(f"{file.name} {file.stat().st_size}".encode())
    return found.hexdigest()
