"""What the tests of the demo without a browser share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from zsad.common.assets import asset

sys.path.insert(0, str(asset("demo")))
from zsad_demo import inspectors


@pytest.fixture(autouse=True, scope="module")
def one_tower() -> Iterator[None]:
    """In this process ``compact`` looks with one tower, a fifth of the time; a server in its own has both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(inspectors.KEYWORDS, "compact", {"tower": "small"})
        yield
