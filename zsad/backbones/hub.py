"""No download is silent: what, how large, where from and where to are said before it starts, and a missing network is
found out in seconds instead of after a minute of retries."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from zsad.errors import WeightsUnavailable

__all__ = ["announce_download", "cached_file", "quiet_without_a_terminal"]

log = logging.getLogger("zsad")
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


def announce_download(name: str, repository: str, filenames: Sequence[str], url: str = "") -> None:
    """Logs a warning with source, size and target of the first file that the hub (or ``url``) has.

    Raises:
        WeightsUnavailable: ``HF_HUB_OFFLINE`` is set, or nothing answers.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode
    from huggingface_hub.utils import get_session

    target = HF_HUB_CACHE if repository else str(Path("~/.cache/clip").expanduser())
    advice = _ADVICE.format(target=target)
    if is_offline_mode():
        raise WeightsUnavailable(f"The weights of {name} are not in the cache, and HF_HUB_OFFLINE is set. {advice}")
    for candidate in [hf_hub_url(repository, filename) for filename in filenames] if repository else [url]:
        try:
            answer = get_session().head(candidate, follow_redirects=True, timeout=10)
        except Exception as error:  # the transport raises a dozen kinds
            raise WeightsUnavailable(f"The weights of {name} could not be reached: {error}. {advice}") from error
        if answer.status_code < 400:
            size = int(answer.headers.get("content-length", 0)) / 1e6
            log.warning("Downloading the weights of %s: %.0f MB from %s to %s", name, size, repository or url, target)
            return
    raise WeightsUnavailable(f"{repository or url} does not answer with the weights of {name}. {advice}")
