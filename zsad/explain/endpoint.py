"""A model behind an OpenAI-compatible address (vLLM, Ollama, llama.cpp, a paid service); needs ``zsad[explain]``.

Pictures go to the address that was given and to no other: redirects are not followed. The key comes from an environment
variable and is neither logged nor written; what a server says in an error is shown without it.
"""

from __future__ import annotations

import logging
import os
import random
import time
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from zsad.common.file_names import printable
from zsad.errors import MissingExtra, UsageError
from zsad.explain.model import Failed, Unusable
from zsad.explain.pictures import data_address
from zsad.explain.question import Question
from zsad.images.urls import without_keys

__all__ = ["KEY", "Endpoint"]

KEY = "ZSAD_API_KEY"
TRIES = 6  # of one request, where the server is busy, fails or closes the connection
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries; doubled each time
MOST_TOKENS = 800  # of an answer
AGAIN = {408, 409, 429}  # and from 500 on
QUOTED = 300  # characters of a server's message that are shown


class Endpoint:
    """Asks a model at an address.

    Args:
        url: the address up to ``/v1``.
        model: its name there.
        key_variable: environment variable that holds the key; unset: no key is sent.
        timeout: seconds for one answer.
        parallel: requests at a time.
        wait: seconds before the second try of a request.

    Attributes:
        name: of the model, as it stands in rows.
        where: the address, without user, password and query.

    Raises:
        UsageError: no http or https address, or no model.
        MissingExtra: the ``openai`` package is not installed.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = KEY,
        timeout: float = 120.0,
        parallel: int = 4,
        wait: float = FIRST_WAIT,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise UsageError(f"{url!r} is no address of a server. Give one such as http://localhost:8000/v1.")
        if not model.strip():
            raise UsageError("The model's name is empty. Give the name that the server knows it by, with --model.")
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("A model at an address", "explain") from error
        for library in ("openai", "httpx", "httpx2"):  # at lower levels they log requests, pictures, and addresses with keys
            logging.getLogger(library).setLevel(logging.WARNING)
        self._openai, self._key = openai, os.environ.get(key_variable, "")
        self.name, self.parallel, self.where, self._wait = model, max(1, parallel), without_keys(url), wait
        self._client = openai.OpenAI(
            base_url=url,
            api_key=self._key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        self._bare = False  # whether the server refuses a schema

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def __call__(self, question: Question) -> str:
        """The model's answer.

        Raises:
            Failed: none after ``TRIES``, or the server refuses this question.
            Unusable: it will refuse any.
        """
        why = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(min(LONGEST_WAIT, self._wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1))
            try:
                return self._once(question)
            except self._openai.APITimeoutError:
                why = "no answer in time"
            except self._openai.APIConnectionError as error:
                why = f"no connection ({type(error.__cause__ or error).__name__})"
            except self._openai.APIStatusError as error:
                why = f"it answers {error.status_code}: {self._quoted(error)}"
                if error.status_code not in AGAIN and error.status_code < 500:
                    raise (Failed if error.status_code in (400, 413, 422) else Unusable)(why) from None
            except (ValueError, AttributeError, TypeError, IndexError, self._openai.APIError):
                why = "what it answers is no chat completion"
        raise (Unusable if why.startswith("no connection") else Failed)(f"{why}, {TRIES} times")

    def _once(self, question: Question) -> str:
        """One request; without a schema where the server refuses the request with one."""
        content = [{"type": "text", "text": question.text}, *map(_part, question.pictures)]
        request: dict[str, Any] = {"model": self.name, "messages": [{"role": "user", "content": content}]}
        if self._bare:
            return self._text(request)
        form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(question.schema)}}
        try:
            return self._text(request | {"response_format": form, "max_tokens": MOST_TOKENS, "temperature": 0})
        except self._openai.BadRequestError:
            text = self._text(request)
            self._bare = True
            return text

    def _text(self, request: dict[str, Any]) -> str:
        text = self._client.chat.completions.create(**request).choices[0].message.content
        if not isinstance(text, str) or not text.strip():
            raise ValueError
        return text

    def _quoted(self, error: Any) -> str:
        """What the server says, cut short, without the key and without pictures."""
        body = error.body if isinstance(error.body, dict) else {}
        said = str(body.get("message") or "without a reason")
        said = said.replace(self._key, "...") if self._key else said
        return printable(said.partition("data:image")[0][:QUOTED])


def _part(picture: Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_address(picture)}}
