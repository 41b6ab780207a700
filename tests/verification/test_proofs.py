"""Every method equals its authors' code on the stored outputs; and what is no equal is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from reference_sets import COMMITTED, REFERENCE_SETS
from typer.testing import CliRunner

import zsad
from zsad.alignment import similarity
from zsad.cli import app
from zsad.errors import UnknownName, UsageError
from zsad.verification import Verification, list_proofs, verify
from zsad.verification.compare import Comparisons, worst_per_kind
from zsad.verification.proof import matches
from zsad.verification.reference import Reference

WITHOUT_AUTHORS = {"anomaly_ov", "compact", "mvg", "patchcore"}  # methods of this project, and those without stored outputs
NO_METHODS = {"metrics", "anomalyncd"}
QUICK = {"anomalyclip", "metrics", "musc", "winclip"}  # proofs that take less than two seconds
NEEDS = {"tipsomaly": "sentencepiece"}  # packages of extras that proofs need


def test_every_method_has_a_proof() -> None:
    assert set(list_proofs()) == set(zsad.list_methods()) - WITHOUT_AUTHORS | NO_METHODS


class Beside(Reference):
    """The part in the repository, and of the full set the arrays that it alone has: a proof has to ask whether one is there."""

    def __init__(self, name: str, patterns: Sequence[str]) -> None:
        super().__init__(COMMITTED, name)
        full = Reference(REFERENCE_SETS["full"], name)
        assert full.settings == {key: one for key, one in self.settings.items() if key != "sampled"}
        self.alone = {key: full[key] for key in full if key not in self._arrays and matches(key, patterns)}
        self._arrays |= self.alone
        self.asked: set[str] = set()
        self.read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            self.asked.add(key)
            yield key

    def __getitem__(self, key: str) -> Any:
        assert key not in self.alone or self.alone.keys() & self.asked, f"{key} does not come with the package"
        self.read.add(key)
        return super().__getitem__(key)


class WithFull(Comparisons):
    """Compares each output with the part in the repository and, of one run, with every value of the full set."""

    def __init__(self, reference: Beside) -> None:
        super().__init__(reference)
        self.full = Comparisons(Reference(REFERENCE_SETS["full"], reference.name))

    def __call__(self, kind: str, key: str, found: Any, **how: Any) -> None:
        super().__call__(kind, key, found, **how)
        self.full(kind, key, found, **how)

    def used(self, *keys: str) -> None:
        super().used(*keys)
        self.full.used(*keys)


@cache
def proved(method: str) -> tuple[Verification, WithFull | None]:
    """One run of the proof; where the full set is beside the checkout its values are compared too."""
    if "full" not in REFERENCE_SETS:
        return verify(method), None
    made: list[WithFull] = []
    full_only = list_proofs()[method].full_only

    def begun(reference: Beside) -> WithFull:
        made.append(WithFull(reference))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsad.verification.proof.Reference", lambda folder, name: Beside(name, full_only))
        patch.setattr("zsad.verification.proof.Comparisons", begun)
        return verify(method), made[-1]


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow) if name not in QUICK else name for name in list_proofs()]
)
def test_equals_the_authors_code(method: str) -> None:
    if method in NEEDS:
        pytest.importorskip(NEEDS[method])
    found, check = proved(method)
    assert not [one for one in found.comparisons if not one.passed]
    assert not found.missing  # whatever is stored was compared, or the proof says why not
    assert found.passed
    proof = list_proofs()[method]
    if check is not None:
        assert not [one for one in check.full.made if not one.passed]
        exempt = (*proof.inputs, *proof.left_out)
        assert not [key for key in check.full.reference if key not in check.full.compared and not matches(key, exempt)]


FULL_ONLY = [name for name, proof in list_proofs().items() if proof.full_only]


@pytest.mark.slow
@pytest.mark.parametrize("method", FULL_ONLY if "full" in REFERENCE_SETS else [])  # empty where it is not beside the checkout
def test_what_is_in_the_full_set_alone_equals_too(method: str) -> None:
    if method in NEEDS:
        pytest.importorskip(NEEDS[method])
    found, check = proved(method)
    assert check is not None
    reference = cast(Beside, check.reference)
    assert reference.alone
    inputs = {key for key in reference.alone if matches(key, list_proofs()[method].inputs)}
    assert inputs <= reference.read
    assert reference.alone.keys() - inputs <= check.compared
    assert found.passed


@pytest.mark.parametrize("method", list_proofs())
def test_the_stored_part_has_every_output(method: str) -> None:
    """The part in the repository holds all kinds of outputs of the proof, and small files."""
    proof = list_proofs()[method]
    assert all((COMMITTED / f"{proof.fixture}{ending}").stat().st_size <= 500_000 for ending in (".npz", ".json"))
    stored = set(Reference(COMMITTED, proof.fixture))
    described = set(Reference(COMMITTED, proof.fixture).settings["arrays"])
    left = {key for key in described - stored if not matches(key, (*proof.left_out, *proof.full_only))}
    assert not left


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 400_000 * len(list_proofs())


def test_reasons_are_of_use() -> None:
    """Each reason for leaving something out is about an array that the authors' program wrote."""
    for proof in list_proofs().values():
        described = set(Reference(COMMITTED, proof.fixture).settings["arrays"]) | {"labels", "input_first"}
        for pattern in proof.left_out:
            assert any(matches(key, [pattern]) for key in described), pattern


# ------------------------------------------------------------------ a difference is seen
def spoiled(tmp_path: Path, fixture: str, key: str, change: Any) -> Path:
    """A copy of the stored part with one array changed."""
    arrays = dict(np.load(COMMITTED / f"{fixture}.npz"))
    arrays[key] = change(arrays.get(key))
    np.savez(tmp_path / f"{fixture}.npz", **arrays)
    (tmp_path / f"{fixture}.json").write_bytes((COMMITTED / f"{fixture}.json").read_bytes())
    return tmp_path


@pytest.mark.slow
def test_one_wrong_value_fails_the_command(tmp_path: Path) -> None:
    def one_more(values: Any) -> Any:
        values = values.copy()
        values.reshape(-1)[7] += 1e-3
        return values

    folder = spoiled(tmp_path, "musc", "anomaly_map", one_more)
    done = CliRunner().invoke(app, ["verify", "musc", "--references", str(folder)])
    assert done.exit_code == 1
    assert done.stdout.startswith("musc         DIFFERS ")
    assert "maps 1.0e-03 (2e-05)" in done.stdout
    assert "beyond the tolerance: anomaly_map" in done.stdout


@pytest.mark.slow
def test_an_output_that_nobody_compares_fails(tmp_path: Path) -> None:
    found = verify("musc", spoiled(tmp_path, "musc", "surplus", lambda _: np.zeros(3, np.float32)))
    assert (found.passed, found.missing) == (False, ("surplus",))


@pytest.mark.slow
def test_a_wrong_method_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temperature that is off by 2 % moves scores, and features stay."""
    plain = similarity.anomaly_probability
    monkeypatch.setattr("zsad.methods.winclip.anomaly_probability", lambda x, text, t: plain(x, text, 1.02 * t))
    found = verify("winclip")
    assert not found.passed
    worst = worst_per_kind(found.comparisons)
    assert not worst["scores"].passed
    assert not worst["maps"].passed
    assert worst["features"].passed


def test_shapes_and_numbers_that_are_none() -> None:
    check = Comparisons(Reference(COMMITTED, "musc"))
    check("scores", "image_score_raw", torch.zeros(9))
    check("scores", "image_score_raw", torch.full((10,), float("nan")))
    assert [one.difference for one in check.made] == [float("inf")] * 2
    assert not any(one.passed for one in check.made)


def test_samples_are_of_the_right_places() -> None:
    """Of a thinned array, the values at every n-th place, whichever part is asked for."""
    reference = Reference(COMMITTED, "musc")
    shape, every = reference.settings["sampled"]["anomaly_map"]
    whole = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    reference._arrays["anomaly_map"] = whole.reshape(-1)[::every]
    for part in (..., (slice(None), slice(1, None)), 2, (slice(1, 3), 5)):
        places, values = reference.stored("anomaly_map", part)
        assert len(values)
        np.testing.assert_array_equal(whole[part].reshape(-1)[places], values)
    with pytest.raises(UsageError, match="anomaly_map is only sampled"):
        reference["anomaly_map"]


# ------------------------------------------------------------------ the command
@pytest.mark.slow
def test_the_command() -> None:
    done = CliRunner().invoke(app, ["verify", "metrics", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["passed"]
    [one] = found["methods"]
    assert one["method"] == "metrics"
    assert one["beyond_tolerance"] == one["not_compared"] == []
    assert one["kinds"]["metrics"]["worst_difference"] <= one["kinds"]["metrics"]["tolerance"]
    plain = CliRunner().invoke(app, ["verify", "metrics"])
    assert plain.stdout.startswith("metrics      equal   metrics ")


def test_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", "patchcore"])
    assert done.exit_code == 2
    assert done.stderr.startswith("zsad: There are no reference outputs of 'patchcore'. There are those of adaclip, ")
    with pytest.raises(UnknownName):
        verify("compact")
    with pytest.raises(UsageError, match="The reference outputs 'musc' in .* cannot be read"):
        verify("musc", tmp_path)


def test_other_weights_are_told_from_the_stored_ones(tmp_path: Path) -> None:
    settings = json.loads((COMMITTED / "musc.json").read_text())
    (tmp_path / "musc.json").write_text(json.dumps(settings | {"seed": 5}))
    (tmp_path / "musc.npz").write_bytes((COMMITTED / "musc.npz").read_bytes())
    with pytest.raises(UsageError, match="have the fingerprint .* the stored outputs belong to"):
        verify("musc", tmp_path)
