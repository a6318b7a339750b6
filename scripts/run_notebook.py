"""Runs docs/notebook.ipynb from nothing, in a folder of its own, and keeps what it shows.

pip install -e '.[samples,test]' && python scripts/run_notebook.py
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def main() -> None:
    """Writes the notebook over itself; an error in a cell is raised, and nothing is written."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=120, resources=place, record_timing=False).execute()
    # The kernel adds its version.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
