"""Downloads of weights. Each is announced: what, how large, where from and where to; a missing network is found out in
seconds instead of after a minute of retries."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from zsad.errors import WeightsUnavailable

__all__ = ["announce_download", "cached_file", "downloaded", "quiet_without_a_terminal"]

log = logging.getLogger("zsad")
WEIGHTS = "model.safetensors"  # in a repository of learned weights
HUB = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)")  # Path("hf://a/b") has one slash
_ADVICE = (
    "Either connect to the network once, or bring the files from another machine: put them into the cache ({target}), or name "
    "them, backbone='file:weights' or 'hf:folder'. The embedded default (method 'compact') needs no download."
)


def cached_file(repository: str, filenames: Sequence[str]) -> Path | None:
    """The first of the files that lies in the Hugging Face cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames if repository else ():
        found = try_to_load_from_cache(repository, filename)
        if isinstance(found, str):
            return Path(found)
    return None


def quiet_without_a_terminal() -> None:
    """Keeps transformers' progress bars off anything but a terminal."""
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def announce_download(name: str, repository: str, filenames: Sequence[str]) -> None:
    """Logs a warning with source, size and target of the first of the files that the hub has.

    Raises:
        WeightsUnavailable: ``HF_HUB_OFFLINE`` is set, or nothing answers.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import EntryNotFoundError

    advice = _ADVICE.format(target=constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE:
        raise WeightsUnavailable(f"The weights of {name} are not in the cache, and HF_HUB_OFFLINE is set. {advice}")
    for filename in filenames:
        try:
            size = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=10).size or 0
        except EntryNotFoundError:
            continue
        except Exception as error:  # the hub and its transport raise a dozen kinds
            reason = str(error).strip().partition("\n")[0]
            raise WeightsUnavailable(f"The weights of {name} could not be reached: {reason}. {advice}") from error
        target = constants.HF_HUB_CACHE
        log.warning("Downloading the weights of %s: %.0f MB from %s to %s", name, size / 1e6, repository, target)
        return
    raise WeightsUnavailable(f"{repository} has none of {', '.join(filenames)}, the weights of {name}. {advice}")


def downloaded(repository: str) -> Path:
    """The learned weights of a repository of the hub: from the cache, or by an announced download.

    Raises:
        WeightsUnavailable: as ``announce_download``.
    """
    from huggingface_hub import hf_hub_download

    if found := cached_file(repository, [WEIGHTS]):
        return found
    announce_download(repository, repository, [WEIGHTS])
    return Path(hf_hub_download(repository, WEIGHTS))
