"""Runs docs/tour.ipynb and writes what it shows into it, with ``make notebook``.

Run from the root of a checkout with ``python -m docs.scripts.notebook``; needs nbclient and
ipykernel, which ``make integration`` installs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

TOUR = Path(__file__).parents[1] / "tour.ipynb"


def executed(path: Path, folder: Path) -> Any:
    """Run a notebook in a kernel of its own.

    Args:
        path: The notebook; it stays as it is.
        folder: Where it runs.

    Returns:
        It with what it shows, without what is written to stderr; pictures as JPEG where they are.
    """
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output.data = {"image/jpeg": output.data["image/jpeg"]}
    return notebook


def shown(cell: Any) -> str:
    """Return the text that a cell shows.

    Args:
        cell: A cell of code.
    """
    return "".join(output["text"] for output in cell["outputs"] if "text" in output)


def main() -> None:
    """Run the notebook and write it."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(TOUR, Path(folder)), TOUR)


if __name__ == "__main__":
    main()
