"""Execute docs/notebook.ipynb in an empty folder and save its outputs.

pip install -e '.[samples,test]' && python scripts/run_notebook.py
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def main() -> None:
    """Execute the notebook and overwrite it; if a cell raises an error, write nothing."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=120, resources=resources, record_timing=False).execute()
    # Without the version of the kernel, which would change with each Python.
    notebook.metadata.language_info = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
