"""CITATION.cff, the workflow and the templates of issues are what their formats ask for, and agree with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from zsad.common.version import __version__

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/checks.yml"
STEP_KEYS = {"name", "uses", "with", "run", "shell", "if", "env", "id", "working-directory"}
JOB_KEYS = {"runs-on", "strategy", "steps", "timeout-minutes", "needs", "if", "env", "permissions"}
RUNNERS = {"ubuntu-latest", "macos-latest", "windows-latest"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def workflow_problems(workflow: dict[Any, Any]) -> list[str]:
    """What GitHub would refuse: unknown keys, steps without an action, values of the matrix that there are not."""
    found = []
    for name, job in workflow["jobs"].items():
        found += [f"{name}: {key}" for key in job.keys() - JOB_KEYS]
        matrix = job.get("strategy", {}).get("matrix", {})
        used = set(re.findall(r"matrix\.(\w+)", str(job)))
        found += [f"{name}: matrix.{key} is not defined" for key in sorted(used - matrix.keys())]
        runners = matrix.get("os", []) if "matrix" in str(job["runs-on"]) else [job["runs-on"]]
        found += [f"{name}: no runner {runner}" for runner in runners if runner not in RUNNERS]
        for number, step in enumerate(job["steps"]):
            found += [f"{name}, step {number}: {key}" for key in step.keys() - STEP_KEYS]
            if ("uses" in step) == ("run" in step):
                found.append(f"{name}, step {number}: one of uses and run")
            if "uses" in step and not re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]):
                found.append(f"{name}, step {number}: {step['uses']} has no version")
    return found


def test_the_workflow_is_one() -> None:
    workflow = read(WORKFLOW)
    assert workflow_problems(workflow) == []
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads "on" as true
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert set(matrix["os"]) == RUNNERS
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [one.rpartition(" ")[2] for one in classifiers if ":: Python :: 3." in one]
    assert matrix["python"] == versions
    commands = str(workflow["jobs"])
    assert all(one in commands for one in ("pytest", "scripts/check", "sphinx -W docs", "python -m build", "pipx run"))


def test_a_workflow_that_github_would_refuse_is_found() -> None:
    workflow = read(WORKFLOW)
    workflow["jobs"]["tests"]["steps"][0] = {"uses": "actions/checkout"}
    workflow["jobs"]["docs"]["steps"].append({"nmae": "x", "run": "${{ matrix.absent }}"})
    workflow["jobs"]["static"]["runs-on"] = "ubuntu-latset"
    assert sorted(workflow_problems(workflow)) == [
        *("docs, step 5: nmae", "docs: matrix.absent is not defined", "static: no runner ubuntu-latset"),
        "tests, step 0: actions/checkout has no version",
    ]


def test_the_citation_is_of_this_package() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license", "version"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (__version__, project["license"])


def test_templates_of_issues_have_what_forms_need() -> None:
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = read(path)
        assert {"name", "description", "body"} <= form.keys()
        assert all(
            one["type"] in ("input", "textarea", "markdown", "dropdown") and one["attributes"]["label"] for one in form["body"]
        )
        assert len({one["id"] for one in form["body"]}) == len(form["body"])
