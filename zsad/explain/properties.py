"""Short visual properties of a flawless and of a flawed object, asked of a language model and checked; needs pydantic."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from zsad.explain.question import Question
from zsad.explain.schema import json_in

__all__ = ["Properties", "ask_for", "read_properties"]

FEWEST, MOST = 3, 12
LONGEST_PHRASE = 8  # words
Phrase = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=3, max_length=80, pattern=r"^[^{}\n\r]+$", to_lower=True)
]
Phrases = Annotated[list[Phrase], Field(min_length=FEWEST, max_length=MOST)]


class Properties(BaseModel):
    """Properties that complete "a photo of a <object> with"."""

    model_config = ConfigDict(extra="forbid")
    flawless: Phrases
    flawed: Phrases

    @model_validator(mode="after")
    def _sensible(self) -> Properties:
        phrases = [*self.flawless, *self.flawed]
        if len(set(phrases)) < len(phrases):
            raise ValueError("a property stands there twice")
        if long := [one for one in phrases if len(one.split()) > LONGEST_PHRASE]:
            raise ValueError(f"{long[0]!r} has more than {LONGEST_PHRASE} words")
        return self


def ask_for(target: str) -> Question:
    """The instruction."""
    schema = Properties.model_json_schema()
    lines = (
        f"Object: {target}.",
        "List visual properties that tell a flawless example of this object from a flawed one in a photograph. Each property "
        f'completes the words "a photo of a {target} with", such as "an even surface" or "a bent edge". Name what can be seen: '
        f"shape, surface, colour, edges, missing or additional parts. {FEWEST} to {MOST} properties in each list, each "
        f"of at most {LONGEST_PHRASE} words, none twice, no causes, no judgements such as good or bad.",
        "Answer with one JSON object of this schema and nothing else:",
        json.dumps(schema),
    )
    return Question("\n".join(lines), (), schema)


def read_properties(text: str) -> Properties:
    """Checks an answer; raises ``ValueError`` where it has not this form."""
    return Properties.model_validate(json.loads(json_in(text)))
