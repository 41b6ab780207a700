"""Writes ``docs/methods.md`` and ``docs/methods/`` from the registry, ``docs/methods.toml`` (prose) and
``docs/methods-measured.json`` (figures).

python scripts/methods_page.py                      # writes the pages
python scripts/methods_page.py --check              # exit code 1 where a page is not what would be written
python scripts/methods_page.py --parity             # compares with the stored outputs first, keeps the differences
python scripts/methods_page.py --speed rows.json    # takes over what benchmarks/overhead.py --json printed
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from method_figure import figure

import zsad
from zsad.common.text_table import markdown
from zsad.inference.listing import listings, traits
from zsad.verification import list_proofs, verify

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, PAGES, PROSE, MEASURED = (DOCS / name for name in ("methods.md", "methods", "methods.toml", "methods-measured.json"))
FORMS = {"*": "yellow: learned for the method", "?": "dashed: optional"}
HEAD = """# Methods

All methods run from one interface (`zsad predict`, `references`, `calibrate`, `evaluate`, `finetune`, the demo, Python). This
page and those of the methods are written by `python scripts/methods_page.py` from the registry; a test compares them.

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


def checkpoints_of(method: str) -> list[dict[str, Any]]:
    """Checkpoints that the package or the authors have."""
    return [row for row in listings("checkpoints")["checkpoints"] if row["name"].partition(".")[0] == method]


def weights_of(method: str) -> str:
    """Licences and sizes of a method's checkpoints."""
    rows = checkpoints_of(method)
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
    cells = {"method": f"[`{method}`](methods/{method}.md)", **{key: own[key] for key in list(own)[:4]}}
    cells |= {"tower": own["towers"], "px": str(cls.recipe.image_size), "time": f"{time:.2f}" if time else "-"}
    return cells | {"weights": weights_of(method), "parity": same}


def citation(method: str, paper: str) -> list[str]:
    """The paper as a BibTeX entry, from 'Jeong et al., "Title", venue 2023, arXiv 2303.14814'; [] where there is none."""
    found = re.match(r'(?:(?P<who>[^"]+?)(?P<more> et al\.)?, )?"(?P<title>[^"]+)",? ?(?P<rest>.*)', paper)
    if found is None:
        return []
    arxiv = re.search(r"arXiv (\d{4}\.\d{5})", found["rest"])
    year = re.search(r"\b(20\d\d)\b(?!\.)", found["rest"])
    entry = {"title": f"{{{found['title']}}}", "note": found["rest"]}
    if found["who"]:
        entry["author"] = found["who"] + (" and others" if found["more"] else "")
    entry["year"] = year[1] if year else f"20{arxiv[1][:2]}" if arxiv else ""
    lines = [f"  {key:<6} = {{{value}}}," for key, value in entry.items() if value]
    return ["## Citation", "", "```bibtex", f"@misc{{{method},", *lines, "}", "```", ""]


def weights_section(method: str) -> list[str]:
    """Where learned weights come from, under which licence, and what they have seen."""
    keys = ("name", "here", "licence", "trained_on", "size", "source")
    rows = [{key.replace("trained_on", "learned from"): row[key] for key in keys} for row in checkpoints_of(method)]
    rows = [row | {"name": f"`{row['name']}`"} for row in rows]
    own = traits(method)["auxiliary data"]
    none = (
        "It learns nothing: the weights are those of its encoder." if own == "no" else "None is published that is known here."
    )
    return ["## Weights", "", *(markdown(rows) if rows else [none]), ""]


def cost(method: str, measured: dict[str, Any]) -> list[str]:
    """Input, towers, time, parity: the row of the table as a list."""
    row = row_of(method, measured)
    time = f"{row['time']} times the forward pass of the bare encoder" if row["time"] != "-" else "not measured"
    parity = f"{row['parity']} (features / maps)" if row["parity"] != "-" else "there are no stored outputs to compare with"
    own = traits(method)
    return [
        f"- Encoder: {row['tower']}; pictures of {row['px']} px.",
        "- " + " ".join(f"{key.capitalize()}: {own[key]}." for key in ("text", "auxiliary data", "references", "batch")),
        f"- Scores: {own['scores']}.",
        f"- Time: {time} ([all methods](../methods.md)).",
        f"- Parity with the authors' outputs: {parity}; run `zsad verify{'' if parity.startswith('there') else ' ' + method}`.",
    ]


def method_page(method: str, prose: dict[str, Any], measured: dict[str, Any]) -> str:
    """A method's own page."""
    used = "".join([*prose["lanes"], prose["joined"]])
    legend = "; ".join(text for mark, text in FORMS.items() if mark in used)
    lines = [f"# {method}", "", f"**{prose['title']}.** {prose['when']}", ""]
    lines += ["<!-- not run: needs pictures of one's own, and weights -->", "```console", f"$ {prose['command']}", "```", ""]
    lines += ["## Idea", "", prose["idea"], "", f"![How data flow through {method}.]({method}.svg)", ""]
    lines += [f"({legend}.)", ""] if legend else []
    lines += ["## When not", "", prose["avoid"], "", "## Cost and parity", "", *cost(method, measured), ""]
    lines += weights_section(method)
    lines += ["## Published figures", "", *(f"- {line}." for line in prose["figures"]), ""] if prose["figures"] else []
    lines += (
        ["## Quirks of the authors' program", "", *(f"- {line}" for line in prose["quirks"]), ""] if prose["quirks"] else []
    )
    source = f"Paper: {prose['paper']}. Code: {prose['code']}."
    return "\n".join([*lines, "## Source", "", source, "", *citation(method, prose["paper"])]).rstrip() + "\n"


def page() -> str:
    """The table of all methods."""
    prose, measured = sources()
    rows = markdown([row_of(name, measured) for name in prose])
    head = HEAD.format(machine=measured["machine"] or "not measured yet").rstrip()
    tree = ["```{toctree}", ":hidden:", "", *(f"methods/{name}" for name in prose), "```"]
    return "\n".join([head, "", *rows, "", "[Which one to choose](how-to/choose-a-method.md).", "", *tree]) + "\n"


def sources() -> tuple[dict[str, Any], dict[str, Any]]:
    """Prose of the registered methods in the order of the file, and figures."""
    prose = tomllib.loads(PROSE.read_text(encoding="utf-8"))
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    if missing := set(zsad.list_methods()) - set(prose):
        raise SystemExit(f"{PROSE.name} has no section for {', '.join(sorted(missing))}.")
    return {name: own for name, own in prose.items() if name in zsad.list_methods()}, measured


def pages() -> dict[Path, str]:
    """Every file that this script writes."""
    prose, measured = sources()
    found = {PAGE: page()}
    for name, own in prose.items():
        found[PAGES / f"{name}.md"] = method_page(name, own, measured)
        found[PAGES / f"{name}.svg"] = figure(own["lanes"], own["joined"], f"How data flow through {name}")
    return found


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
    written = pages()
    if given.check:
        sys.exit(any(not path.exists() or text != path.read_text(encoding="utf-8") for path, text in written.items()))
    PAGES.mkdir(exist_ok=True)
    for path in set(PAGES.iterdir()) - set(written):
        path.unlink()
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
