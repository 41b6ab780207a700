"""Executes docs/notebooks and keeps their outputs.

python scripts/run_notebooks.py            # all
python scripts/run_notebooks.py NAME ...   # some
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "docs/notebooks"


async def execute(notebooks: Sequence[Any]) -> None:
    """Runs the cells of notebooks one after the other in one kernel, which forgets all names in between."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(cwd=tempfile.mkdtemp())
    try:
        for notebook in notebooks:
            client = NotebookClient(notebook, km=manager, timeout=300)
            client.kc = manager.client()
            client.kc.start_channels()
            await client.kc.wait_for_ready(timeout=120)
            await client.kc.execute("%reset -f", reply=True, timeout=60)
            for number, cell in enumerate(notebook.cells):
                await client.async_execute_cell(cell, number)
            client.kc.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)


def tidy(notebook: Any) -> Any:
    """Without times, warnings of the notebook's own environment, and the larger of two forms of a picture; cells from 1 on."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    for number, cell in enumerate(cells, 1):
        cell.execution_count = number
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        for one in cell.outputs:
            if "execution_count" in one:
                one.execution_count = number
            if "image/jpeg" in one.get("data", {}):
                one.data.pop("image/png", None)
    return notebook


def main(names: Sequence[str]) -> None:
    paths = [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(NOTEBOOKS.glob("*.ipynb"))
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    warnings.simplefilter("ignore")
    asyncio.run(execute(notebooks))
    for path, notebook in zip(paths, notebooks, strict=True):
        nbformat.write(tidy(notebook), path)


if __name__ == "__main__":
    main(sys.argv[1:])
