"""The report is one self-contained page for every task."""

import base64
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import chromium
from PIL import Image
from small_data import write_images
from small_runs import write_folder

import dltrain
from dltrain.build import load_trained
from dltrain.commands import report as command
from dltrain.core.errors import RunError

CONFIGS = Path(__file__).parents[2] / "configs" / "tiny"
SECTIONS = {"Curves", "Throughput", "Config", "Data", "Environment"}
CLASSIFICATION_SECTIONS = {"Confusion matrix", "Classes", "Calibration", "Worst errors"}


class Reader(HTMLParser):
    """Collect tags, images, links, headings and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.images: list[dict] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href") if given.get(name)]
        if tag == "img":
            self.images.append(given)

    def handle_data(self, data):
        self.text += f"{data}\n"
        if self.tags and self.tags[-1] in ("h2", "h3"):
            self.headings.append(data)


def read(path: str | Path) -> Reader:
    """Read a page, and check that it is self-contained and that its images can be decoded."""
    page = Path(path).read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    found = Reader(page)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in found.links)
    assert "url(" not in page
    for shown in found.images:
        image = Image.open(io.BytesIO(base64.b64decode(shown["src"].partition(",")[2])))
        assert image.size == (int(shown["width"]), int(shown["height"]))
        assert shown["alt"]
    assert found.tags.count("h1") == 1
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(name: str, *overrides: str) -> Path:
    dltrain.train(dltrain.load("config.yaml", overrides), run_dir=Path(name), quiet=True)
    return Path(name)


def test_a_classifier(folder, call):
    run = trained("run", "optimizer.lr=1e-5")
    ended = call("report", run)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("run/report.html")
    page = read(run / "report.html")
    assert set(page.headings) >= SECTIONS | CLASSIFICATION_SECTIONS
    assert 1 <= len(page.images) <= 24
    summary = dltrain.rundir.directory.Run(run).summary()
    assert summary.data["fingerprint"] in page.text
    assert f"{summary.metrics['test/accuracy']:.5g}" in page.text
    assert "Expected calibration error" in page.text
    assert "name: mlp" in page.text
    parameters = sum(p.numel() for p in load_trained(run, None, "cpu").task.model.parameters())
    assert f"model\nmlp\nparameters\n{parameters:,}\n" in page.text
    assert f"model size\n{parameters * 4 / 1024:.1f} KiB\n" in page.text


def test_several_runs_on_one_page(folder):
    runs = [trained(f"run{seed}", f"seed={seed}") for seed in range(2)]
    result = dltrain.report(runs, folder / "both.html")
    assert (result.path, result.runs) == (str(folder / "both.html"), ["run0", "run1"])
    assert result.bytes == (folder / "both.html").stat().st_size
    page = read(result.path)
    assert page.headings.count("Confusion matrix") == 2
    assert page.headings[0] == "Overview"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ("toy_text", CLASSIFICATION_SECTIONS),
        ("logistic_regression", CLASSIFICATION_SECTIONS),
        ("toy_regression", {"Predictions", "Largest errors"}),
        ("mnist_vae", {"Reconstructions", "Samples"}),
        ("mnist_gan", {"Samples"}),
        ("shakespeare_gpt", {"Sample"}),
        ("seq2seq_reverse", {"Outputs"}),
    ],
)
def test_every_kind_of_task(config, wanted, tmp_path, request):
    overrides = ["train.device=cpu", "recording.tensorboard=false"]
    if "mnist" in config:
        write_images(tmp_path / "images", train=60, test=20, side=28, classes=3)
        overrides.append(f"data={{name: idx, root: {tmp_path / 'images'}}}")
    if config == "shakespeare_gpt":
        request.getfixturevalue("shakespeare_root")
    if "gan" in config:
        overrides += ["metrics=[]", "task.judge=null"]
    experiment = dltrain.load(CONFIGS / f"{config}.yaml", overrides)
    dltrain.train(experiment, run_dir=tmp_path / "run", quiet=True)
    page = read(dltrain.report([tmp_path / "run"]).path)
    assert wanted | SECTIONS <= set(page.headings)


def test_errors_of_a_regression_are_a_table_and_a_plot_of_predicted_and_true_values(tmp_path):
    run = tmp_path / "run"
    dltrain.train(dltrain.load(CONFIGS / "toy_regression.yaml"), run_dir=run, quiet=True)
    page = Path(dltrain.report([run]).path).read_text(encoding="utf-8")
    errors = page.partition("Largest errors</h3>")[2].partition("</section>")[0]
    cells = re.findall("<td>(.*?)</td>", errors)
    names = re.findall('<th scope="col">(.*?)</th>', errors)
    assert names == ["sample", "predicted", "true", "absolute error", "x0"]
    predicted, true, size, x = map(float, cells[:4])
    assert abs(predicted - true) == pytest.approx(size, rel=1e-3)
    assert abs(true - np.sin(x)) < 0.6
    assert "<figure" not in errors
    plot = page.partition("Predicted versus true values</figcaption>")[2].partition("</svg>")[0]
    assert plot.count("<circle") > 10


def test_pairs_of_texts_are_a_table(tmp_path):
    chosen = dltrain.load(CONFIGS / "seq2seq_reverse.yaml", ["train.device=cpu"])
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    page = read(dltrain.report([tmp_path / "run"]).path)
    outputs = page.text.partition("Outputs")[2].partition("Throughput")[0]
    assert "input\noutput" in outputs
    assert "|" not in outputs


def test_text_of_a_run_is_escaped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = "<script>alert(1)</script>"
    rows = [f"{n},{hostile if n % 2 else '<b>'}" for n in range(60)]
    Path("table.csv").write_text("\n".join([f"{hostile},kind", *rows]))
    Path("config.yaml").write_text(
        "model: {name: linear}\ndata: {name: csv, path: table.csv, target: kind}\n"
        "loss: cross_entropy\noptimizer: adamw\ntrain: {epochs: 1, device: cpu}\n"
    )
    run = trained('"><i>run')
    page = read(dltrain.report([run]).path)
    assert not {"b", "i", "script"} & set(page.tags)
    assert hostile in page.text


def test_without_its_data_a_run_shows_what_it_recorded(folder, call):
    run = trained("run")
    shutil.rmtree("images")
    ended = call("report", run)
    assert ended.code == 0
    assert "not evaluated" in ended.out
    page = read(run / "report.html")
    assert set(page.headings) >= SECTIONS
    assert "not evaluated" in page.text
    assert not CLASSIFICATION_SECTIONS & set(page.headings)


def test_a_page_that_would_be_too_large_has_fewer_images(folder, monkeypatch):
    run = trained("run", "optimizer.lr=1e-5")
    whole = dltrain.report([run])
    num_images = len(read(whole.path).images)
    monkeypatch.setattr(command, "MAX_BYTES", whole.bytes)
    smaller = dltrain.report([run])
    assert smaller.bytes < whole.bytes
    assert len(read(smaller.path).images) < num_images
    monkeypatch.setattr(command, "MAX_BYTES", 1000)
    with pytest.raises(RunError, match="give fewer"):
        dltrain.report([run])


def test_a_run_that_was_killed_at_its_start_has_a_page(folder):
    run = trained("run")
    for name in ("summary.json", "record.json", "metrics.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    assert "killed" in read(dltrain.report([run]).path).text


def test_a_directory_without_a_run_is_an_error(folder, call):
    ended = call("report", "images")
    assert (ended.code, ended.out) == (1, "")
    assert "not a run directory" in ended.err
    with pytest.raises(RunError, match="can't be written"):
        dltrain.report([trained("run")], folder / "missing" / "page.html")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_it_in_light_and_dark_without_console_messages(folder):
    page = Path(dltrain.report([trained("run")]).path).resolve()
    shade = {}
    for scheme, number in (("dark", 0), ("light", 1)):
        shot = folder / f"{scheme}.png"
        done = subprocess.run(
            [
                *(
                    "chromium",
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--window-size=800,900",
                ),
                *("--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"),
                f"--blink-settings=preferredColorScheme={number}",
                *(f"--screenshot={shot}", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=dict(os.environ, HOME=str(folder)),
        )
        assert not re.search("CONSOLE", done.stderr)
        pixels = np.asarray(Image.open(shot).convert("L"), dtype=float)
        assert pixels.std() > 5
        shade[scheme] = pixels.mean()
    assert shade["dark"] < 100
    assert shade["light"] > 200


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_nothing_is_clipped_at_any_width(folder):
    page = Path(dltrain.report([trained("run", "train.steps=200")]).path).resolve()
    clipped = """[...document.querySelectorAll("html, .beside *, .charts *, .tiles *")]
        .filter(part => part instanceof HTMLElement && part.scrollWidth > part.clientWidth + 1)
        .filter(part => part.clientWidth)
        .map(part => part.outerHTML.slice(0, 80))"""
    outside = """[...document.querySelectorAll("svg")].flatMap(svg => {
        const box = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("text")].filter(text => {
            const own = text.getBoundingClientRect();
            return own.left < box.left - 1 || own.right > box.right + 1;
        }).map(text => text.textContent)})"""
    with chromium(folder) as tab:
        for width in (400, 1000, 1600):
            tab.do(
                "Emulation.setDeviceMetricsOverride",
                **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
            )
            tab.open(page.as_uri())
            assert tab.value(clipped) == []
            assert tab.value(outside) == []
