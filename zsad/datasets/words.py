"""What the names of folders and the words in lists mean: normal, anomalous, masks, unlabelled; train, test, validation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zsad.errors import UsageError

__all__ = ["ANOMALOUS", "NORMAL", "ROLES", "check_roles", "names_a_defect", "plain", "role_of", "split_of"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NORMAL = _words("good ok okay normal nominal")
ANOMALOUS = _words("bad anomaly anomalies anomalous abnormal defect defects defective faulty ko ng nok nio reject rejected")
ROLES = ("normal", "anomalous", "mask", "ignore")
"""What a user can say that a folder holds."""

_UNLABELLED = _words("unlabeled unlabelled unknown unsorted pred prediction predictions")
_MASKS = _words("mask masks gt groundtruth label labels annotation annotations segmentation segmentations")
_FILLERS = _words("test train training val valid validation dir folder image images img imgs")
_SPLITS = {
    "train": _words("train training trn"),
    "test": _words("test testing tst"),
    "validation": _words("validation valid val"),
}
_DEFECTS = re.compile(  # beginnings of words
    "scratch|crack|hole|pit|stain|spot|smudge|dirt|contaminat|foreign|broken|break|colou?r|discolo|bent|bend|deform|miss|dent|cut|"
    "rust|corro|chip|burr|tear|torn|fold|wrinkle|burn|bubble|blister|pore|poro|leak|loose|misplace|misalign|squeeze|poke|damage|"
    "print|glue|oil|thread|gap|flaw|fray|blow|uneven|void|inclusion|peel|short|open|spur|mouse|bite|tumou?r|lesion|polyp|hemorrh"
)


def plain(name: str) -> str:
    """Lower case, one underscore for spaces, hyphens and dots, and before an inner capital: "GroundTruth" -> "ground_truth"."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-_.]+", "_", apart).strip("_").casefold()


def role_of(name: str) -> str:
    """What a folder of that name holds.

    Returns:
        "normal", "anomalous", "mask", "unlabelled", or "" for a name that says none of these, as that of a kind of defect.
    """
    words = set(plain(name).split("_"))
    if {"ground", "truth"} <= words or (words & _MASKS and words <= _MASKS | _FILLERS | ANOMALOUS | NORMAL):
        return "mask"
    if words & _UNLABELLED:
        return "unlabelled"
    telling = words - _FILLERS
    return next((role for role, known in (("normal", NORMAL), ("anomalous", ANOMALOUS)) if telling and telling <= known), "")


def names_a_defect(name: str) -> bool:
    """Whether a word of a folder's name is one for a defect: "deep_scratch", "broken large"."""
    return any(_DEFECTS.match(word) for word in plain(name).split("_"))


def split_of(text: str) -> str:
    """ "train", "test" or "validation" for their usual spellings, in any case; another text as it is, and "test" for none."""
    return next((split for split, usual in _SPLITS.items() if plain(text) in usual), text.strip() or "test")


def check_roles(given: Mapping[str, str]) -> dict[str, str]:
    """What folders hold by their plain name, as the user says.

    Raises:
        UsageError: something else than one of ``ROLES``.
    """
    for name, role in given.items():
        if role not in ROLES:
            raise UsageError(f"A folder holds one of {', '.join(ROLES)}; {name!r} was given as {role!r}.")
    return {plain(name): role for name, role in given.items()}
