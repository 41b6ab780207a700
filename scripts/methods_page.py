"""Writes ``docs/methods.md`` from the registry, ``docs/methods.toml`` (prose) and ``docs/methods-measured.json`` (figures).

python scripts/methods_page.py                      # writes the page
python scripts/methods_page.py --check              # exit code 1 where the page is not what would be written
python scripts/methods_page.py --parity             # compares with the stored outputs first, keeps the differences
python scripts/methods_page.py --speed rows.json    # takes over what benchmarks/overhead.py --json printed
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import zsad
from zsad.common.text_table import markdown
from zsad.inference.listing import listings, traits
from zsad.verification import list_proofs, verify

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PROSE, MEASURED = (DOCS / name for name in ("methods.md", "methods.toml", "methods-measured.json"))
HEAD = """# Methods

All methods run from one interface (`zsad predict`, `references`, `calibrate`, `evaluate`, `finetune`, the demo, Python). This
page is written by `python scripts/methods_page.py` from the registry; a test compares them.

* **auxiliary data**: learned from annotated pictures of other categories. **references**: normal pictures by the method's own
  rule, or by the common one (`references/fusion.py`). **batch**: whether unlabelled pictures are compared with each other.
* **time**: forward pass over the bare image encoder's, one picture, random weights, {machine}.
* **parity**: worst difference from the authors' program on the stored outputs (`zsad verify`): features / maps and scores, and
  how many outputs are compared. On tiny random weights: the program is the same; it says nothing about real pictures.

Not built: **PA-CLIP** (Pan et al., arXiv 2503.01292), whose formulas are not public; **ALFA** (Zhu et al., arXiv 2404.09654),
likewise, whose idea of prompts from a language model is here by rules of our own ([explain.md](explain.md)); **AnomalyGPT**'s
decoder (Gu et al., AAAI 2024), which is `april_gan`'s with weights for non-commercial use; what its language model is for,
`zsad explain` does with any model.
"""


def weights_of(method: str) -> str:
    """Checkpoints that the package or the authors have, with their licences."""
    rows = [row for row in listings("checkpoints")["checkpoints"] if row["name"].partition(".")[0] == method]
    return "; ".join(dict.fromkeys(f"{row['licence']}, {row['size']}" for row in rows)) or "none of its own"


def rounded(value: float | None) -> str:
    """One digit, rounded up: 2e-6."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    power = math.floor(math.log10(value))
    digit = math.ceil(value / 10**power - 1e-9)
    return f"{digit}e{power}" if digit < 10 else f"1e{power + 1}"


def row_of(method: str, measured: dict[str, Any]) -> dict[str, str]:
    """A row of the table."""
    own, cls = traits(method), zsad.registry.method_class(method)
    found = measured["methods"].get(method, {})
    parity, time = found.get("parity"), found.get("time")
    same = f"{rounded(parity['features'])} / {rounded(parity['maps'])}, {parity['outputs']} outputs" if parity else "-"
    cells = {"method": f"[`{method}`](#{method.replace('_', '-')})", **{key: own[key] for key in list(own)[:4]}}
    cells |= {"tower": own["towers"], "px": str(cls.recipe.image_size), "time": f"{time:.2f}" if time else "-"}
    return cells | {"weights": weights_of(method), "parity": same}


def section(method: str, prose: dict[str, Any]) -> str:
    """A method's own section."""
    own = traits(method)
    lines = [f"## {method.replace('_', '-')}", "", f"**{prose['title']}.** {prose['when']}", "", f"    {prose['command']}", ""]
    lines += [f"* Paper: {prose['paper']}. Code: {prose['code']}.", f"* Scores: {own['scores']}."]
    lines += [f"* {line}" for line in prose["quirks"]]
    lines += [f"* Published: {line}." for line in prose["figures"]]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    prose = tomllib.loads(PROSE.read_text(encoding="utf-8"))
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    methods = [name for name in prose if name in zsad.list_methods()]
    if missing := set(zsad.list_methods()) - set(methods):
        raise SystemExit(f"{PROSE.name} has no section for {', '.join(sorted(missing))}.")
    table = markdown([row_of(name, measured) for name in methods])
    sections = [section(name, prose[name]) for name in methods]
    head = HEAD.format(machine=measured["machine"] or "not measured yet").rstrip()
    return "\n\n".join([head, "\n".join(table), *sections]) + "\n"


def compared(method: str) -> dict[str, Any]:
    """Worst differences of a proof, by kind of output."""
    found = verify(method)
    if not found.passed:
        raise SystemExit(f"{method} differs from the stored outputs; see zsad verify.")
    of = {
        kind: max((one.difference for one in found.comparisons if one.kind in kinds and not one.relative), default=None)
        for kind, kinds in (("features", ("features",)), ("maps", ("maps", "scores")))
    }
    return {**of, "outputs": len(found.comparisons)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--parity", action="store_true")
    parser.add_argument("--speed", type=Path)
    parser.add_argument("--machine", help="in words, where --speed was measured")
    given = parser.parse_args()
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {"machine": "", "methods": {}}
    if given.parity:
        for method in set(list_proofs()) & set(zsad.list_methods()):
            measured["methods"].setdefault(method, {})["parity"] = compared(method)
    if given.speed:
        for row in json.loads(given.speed.read_text(encoding="utf-8")):
            measured["methods"].setdefault(row["method"], {})["time"] = round(row["ratio_median"], 2)
        measured["machine"] = given.machine or measured["machine"]
    if given.parity or given.speed:
        MEASURED.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = page()
    if given.check:
        sys.exit(text != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
