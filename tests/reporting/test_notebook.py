"""Live output of training in a notebook, and the notebook in the docs."""

import base64
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import nbformat
import pytest
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.core.errors import InterruptedRunError, RunError
from dltrain.reporting.notebook import NotebookProgress, in_kernel

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


# ------------------------------------------------------------------------------ what is shown


class Screen(list):
    """Fake output area of a cell: the contents that were shown, one after another."""

    def display(self, html):
        assert not self, "there is one output area"
        self.append(html.data)

    def update(self, html):
        assert self
        self.append(html.data)

    @property
    def charts(self) -> dict[str, str]:
        """The last charts by title, each checked to be a complete SVG file."""
        found = re.findall(r'<img alt="(.*?)" .*?base64,(.*?)">', self[-1])
        charts = {title: base64.b64decode(data).decode() for title, data in found}
        for svg in charts.values():
            root = ElementTree.fromstring(svg)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
        return charts


@pytest.fixture
def screen(monkeypatch):
    """Make this process look like the kernel of a notebook."""
    from IPython import display

    screen = Screen()
    monkeypatch.setattr(display, "DisplayHandle", lambda: screen)
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    return screen


def test_a_run_shows_curves_of_training_and_validation(screen, experiment, tmp_path, capsys):
    write_folder(tmp_path)
    summary = dltrain.train(experiment(CONFIG), run_dir=tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    assert "step 0 of 10" in screen[0]
    assert "done at step 10 of 10" in screen[-1]
    charts = screen.charts
    assert list(charts) == ["loss", "accuracy", "auroc"]
    assert "training" in charts["loss"]
    assert "validation" in charts["loss"]
    assert f"test  loss {summary.metrics['test/loss']:.4f}" in screen[-1]
    assert f"test  loss {summary.metrics['test/loss']:.4f}" in (
        tmp_path / "run" / "log.txt"
    ).read_text(encoding="utf-8")


def test_quiet_shows_nothing(screen, experiment, tmp_path):
    write_folder(tmp_path)
    dltrain.train(experiment(CONFIG), run_dir=tmp_path / "run", quiet=True)
    assert not screen


def test_a_run_of_a_terminal_can_be_resumed_in_a_notebook(
    experiment, tmp_path, screen, monkeypatch
):
    write_folder(tmp_path)
    config = CONFIG | {"model": {"name": "stochastic"}}
    whole = dltrain.train(experiment(config), run_dir=tmp_path / "whole", quiet=True)
    with pytest.raises(InterruptedRunError):
        dltrain.train(experiment(config, "model.stop_at=7"), run_dir=tmp_path / "run", quiet=True)
    assert dltrain.resume(str(tmp_path / "run")).weights_sha256 == whole.weights_sha256
    assert "step 7 of 10" in screen[0]
    assert "done at step 10" in screen[-1]


def test_a_failed_run_shows_its_status(screen, experiment, tmp_path):
    write_folder(tmp_path)
    with pytest.raises(RunError):
        dltrain.train(experiment(CONFIG, "optimizer={name: sgd, lr: 1e30}"), run_dir=tmp_path / "r")
    assert "failed at step" in screen[-1]


def test_the_output_is_updated_at_most_once_per_second(screen, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr("dltrain.reporting.notebook.time", clock)
    live = NotebookProgress(io.StringIO())
    live.on_fit_start(0, 1000, 32)
    for step in range(1, 1001):
        clock.now += 0.01
        live.log_scalars(step, 1.0, "train", {"loss": 1.0 / step})
        live.on_step_end(step)
    assert 9 <= len(screen) <= 11
    live.log_scalars(1000, 1.0, "val", {"loss": float("nan"), "r2": float("nan")})
    live.close()
    assert list(screen.charts) == ["loss"]  # the other has no finite value
    assert "step 1,000 of 1,000" in screen[-1]


def test_the_remaining_time_is_estimated_from_the_steps_so_far(screen, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    monkeypatch.setattr("dltrain.reporting.notebook.time", clock)
    live = NotebookProgress(io.StringIO())
    live.on_fit_start(40, 100, 32)  # resumed
    clock.now += 10
    live.on_step_end(60)
    assert "step 60 of 100, about 20 s left" in screen[-1]
    live.close()


def test_names_and_lines_are_escaped(screen):
    live = NotebookProgress(io.StringIO())
    live.on_fit_start(0, 1, 1)
    live.log_scalars(1, 1.0, "val", {"f1_<b>\x1b\u202e": 1.0, "loss": 2.0})
    live.log_message("<script>\x1b\u202e")
    live.close()
    assert "<script>" not in screen[-1]
    assert "<b>" not in screen[-1]
    charts = "".join(screen.charts.values())
    assert r"f1 &lt;b&gt;\x1b\u202e" in charts
    assert not {"\x1b", "\u202e"} & {*screen[-1], *charts}


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_a_terminal_is_not_a_notebook(monkeypatch, shell):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_kernel()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_kernel()


# ---------------------------------------------------------------------------- the one in the docs


def structure(notebook) -> list[list[tuple]]:
    """Return the kinds of outputs of each code cell."""
    return [
        [
            (output.output_type, output.get("name"), tuple(sorted(output.get("data", ()))))
            for output in cell.outputs
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook_of_the_docs_runs(tmp_path):
    from nbclient import NotebookClient

    kept = nbformat.read(NOTEBOOK, as_version=4)
    fresh = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(fresh, timeout=300, resources=place).execute()  # raises what a cell raises
    assert structure(fresh) == structure(kept)
    assert sum(len(outputs) for outputs in structure(kept)) >= 8


def test_its_outputs_contain_no_absolute_path():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|usr|opt)/|0x[0-9a-f]{6}", text)
    assert "done at step" in text
