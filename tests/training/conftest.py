"""Every run of training prepares the same two categories; their sentences are encoded once."""

from __future__ import annotations

from sentences import encoded_once  # noqa: F401
