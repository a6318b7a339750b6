"""Runs as TensorBoard's own plug-ins read them: HParams table, charts and projector."""

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from small_data import write_images
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.core.errors import InterruptedRunError
from dltrain.core.task import Embedding, Figure
from dltrain.loggers import TensorBoard

# TensorBoard's own copy of a library warns of another.
pytestmark = pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")

TINY = Path(__file__).parents[2] / "configs" / "tiny"
RECORDED = {"recording": {"log_every": 2, "embeddings": 30}}


# ------------------------------------------------------------------------------- TensorBoard's eyes


def provider(logdir: Path):
    """Return the data provider of TensorBoard's plug-ins for all runs in a directory."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    return data_provider.MultiplexerDataProvider(multiplexer, str(logdir))


def table(logdir: Path) -> tuple[set[str], dict[str, dict]]:
    """The HParams table: its hyperparameters, and for each run those and the metrics it shows."""
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, list_session_groups
    from tensorboard.plugins.hparams import backend_context as backend

    context = backend.Context(base_plugin.TBContext(data_provider=provider(logdir)))
    request = RequestContext()
    experiment = context.experiment_from_metadata(
        request, "", True, context.hparams_metadata(request, ""), None
    )
    wanted = [
        api_pb2.ColParams(metric=info.name, order=api_pb2.ORDER_UNSPECIFIED)
        for info in experiment.metric_infos
    ]
    states = [
        getattr(api_pb2, f"STATUS_{name}") for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")
    ]
    asked = api_pb2.ListSessionGroupsRequest(
        col_params=wanted, allowed_statuses=states, slice_size=100, include_metrics=True
    )
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    rows = {}
    for group in groups:
        (session,) = group.sessions
        values = {v.name.tag: v.value for v in session.metric_values}
        options = {
            name: value.string_value or value.number_value for name, value in group.hparams.items()
        }
        name = session.name.removesuffix("/tensorboard")
        rows[name] = {"status": session.status, "metrics": values, "options": options}
    return {info.name for info in experiment.hparam_infos}, rows


def tagged(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of a summary by their tags: time and memory are in the group `train`."""
    return {name.replace("system/", "train/"): value for name, value in metrics.items()}


def layouts(logdir: Path) -> dict[str, dict[str, list[str]]]:
    """The Custom Scalars tab: category, chart, the tags that its lines match in some run."""
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

    data = provider(logdir)
    plugin = CustomScalarsPlugin(base_plugin.TBContext(data_provider=data))
    found = plugin.layout_impl(RequestContext(), "")
    listed = data.list_scalars(RequestContext(), experiment_id="", plugin_name="scalars")
    tags = sorted({tag for run in listed.values() for tag in run})
    return {
        category["title"]: {
            chart["title"]: [
                tag
                for pattern in chart["multiline"]["tag"]
                for tag in tags
                if re.match(pattern, tag)
            ]
            for chart in category["chart"]
        }
        for category in json.loads(found)["category"]
    }


class Projected:
    """The files of the projector that its config refers to."""

    def __init__(self, run: Path) -> None:
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
        from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file

        folder = run / "tensorboard"
        config = text_format.Parse(
            (folder / "projector_config.pbtxt").read_text(), ProjectorConfig()
        )
        (self.info,) = config.embeddings
        self.points = torch.from_numpy(_read_tensor_tsv_file(str(folder / self.info.tensor_path)))
        lines = (folder / self.info.metadata_path).read_text(encoding="utf-8").splitlines()
        head, *rows = [line.split("\t") for line in lines]
        self.rows = [dict(zip(head, row, strict=True)) for row in rows]
        path = self.info.sprite.image_path
        self.sprite = np.array(Image.open(folder / path)) if path else None


# --------------------------------------------------------------------------------- table and charts


@pytest.fixture
def two_runs(experiment, tmp_path):
    """A completed classifier, an autoencoder and an interrupted run, in one directory."""
    write_folder(tmp_path)
    dltrain.train(experiment(CONFIG | RECORDED), run_dir=tmp_path / "runs" / "done", quiet=True)
    other = {
        "task": "autoencoder",
        "model": {"name": "autoencoder", "latent": 3, "hidden": [6]},
        "loss": "mse",
        "metrics": ["mae"],
        "checkpoint": {},
    }
    chosen = experiment(CONFIG | RECORDED | other)
    dltrain.train(chosen, run_dir=tmp_path / "runs" / "other", quiet=True)
    stochastic = CONFIG | {"model": {"name": "stochastic"}, "recording": {"log_every": 2}}
    with pytest.raises(InterruptedRunError):
        dltrain.train(
            experiment(stochastic, "model.stop_at=7"),
            run_dir=tmp_path / "runs" / "stopped",
            quiet=True,
        )
    return tmp_path / "runs"


def test_the_table_has_every_run_with_its_options_and_metrics(two_runs):
    """A run of another task has its own columns, and an interrupted run its last values."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS, STATUS_UNKNOWN

    options, rows = table(two_runs)
    assert {"model.latent", "model.stop_at", "model.hidden", "optimizer.lr"} <= options
    assert set(rows) == {"done", "other", "stopped"}
    assert rows["done"]["options"]["model.name"] == "mlp"
    assert rows["other"]["options"]["model.latent"] == 3
    for name in ("done", "other"):
        summary = json.loads((two_runs / name / "summary.json").read_text())
        assert rows[name]["status"] == STATUS_SUCCESS
        assert rows[name]["metrics"] == pytest.approx(tagged(summary["metrics"]))
    assert rows["stopped"]["status"] == STATUS_UNKNOWN
    assert "val/loss" in rows["stopped"]["metrics"]
    assert "test/loss" not in rows["stopped"]["metrics"]


def test_a_chart_has_the_values_of_one_metric_on_all_splits(two_runs):
    found = layouts(two_runs)
    assert list(found) == ["metrics", "optimization", "system"]
    assert found["metrics"]["loss"] == ["train/loss", "val/loss", "test/loss"]
    assert found["metrics"]["accuracy"] == ["val/accuracy", "test/accuracy"]
    assert found["metrics"]["mae"] == ["val/mae", "test/mae"]  # of the other run
    assert found["optimization"]["learning_rate"] == ["train/learning_rate"]
    shown = Counter(tag for charts in found.values() for tags in charts.values() for tag in tags)
    assert set(shown.values()) == {1}
    recorded = {
        tag
        for run in two_runs.iterdir()
        for tag in tagged(json.loads((run / "summary.json").read_text())["metrics"])
    }
    assert set(shown) == recorded


def test_the_phases_of_a_gan_share_a_chart(experiment, tmp_path):
    write_images(tmp_path / "MNIST" / "raw", 200, 40, 28, 10)
    chosen = dltrain.load(
        TINY / "mnist_gan.yaml",
        [f"data.root={tmp_path}", "train.epochs=1", "data.validation=40", "recording.log_every=1"],
    )
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    found = layouts(tmp_path / "run")
    name = "discriminator_loss"
    assert found["metrics"][name] == [f"{split}/{name}" for split in ("train", "val", "test")]
    assert found["optimization"]["learning_rate"] == [
        "train/discriminator_learning_rate",
        "train/generator_learning_rate",
    ]


def test_a_model_that_takes_two_sequences_has_a_graph_too(tmp_path):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    chosen = dltrain.load(TINY / "seq2seq_reverse.yaml", ["train.epochs=1"])
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    (path,) = (tmp_path / "run" / "tensorboard").iterdir()
    found = [event.graph_def for event in EventFileLoader(str(path)).Load() if event.graph_def]
    (graph,) = found
    operations = [node.op for node in GraphDef.FromString(graph).node]
    assert operations.count("IO Node") >= 3  # two inputs, and the output
    assert "aten::lstm" in operations


# ---------------------------------------------------------------------------------------- projector


def test_points_are_what_the_last_layer_gets(two_runs):
    from dltrain.build import build_data, build_runtime, load_trained

    shown = Projected(two_runs / "done")
    assert shown.points.shape == (30, 8)
    assert list(shown.rows[0]) == ["label", "prediction", "verdict", "index"]
    trained = load_trained(two_runs / "done", None, "cpu")
    chosen = trained.experiment
    test = build_data(chosen, build_runtime(chosen), print).test
    assert test is not None
    (batch,) = test.batches(40)
    samples = [int(row["index"]) for row in shown.rows]
    assert samples[0] < 2  # from all over the split
    assert samples[-1] > 37
    assert samples == sorted(set(samples))
    with torch.inference_mode():
        probabilities = trained.task.predict(batch.inputs)[samples]
        by_points = trained.task.model[-1](shown.points).softmax(1)
    assert torch.allclose(by_points, probabilities, atol=1e-4)
    names = trained.spec.class_names
    for number, (sample, row) in enumerate(zip(samples, shown.rows, strict=True)):
        guess, truth = int(probabilities[number].argmax()), int(batch.targets[sample])
        assert row == {
            "label": names[truth],
            "prediction": names[guess],
            "verdict": "right" if guess == truth else "wrong",
            "index": str(sample),
        }


def test_each_point_has_its_image(two_runs):
    """The position of a bright row encodes the class, as in the data."""
    shown = Projected(two_runs / "done")
    assert shown.sprite is not None
    assert list(shown.info.sprite.single_image_dim) == [8, 8]
    for number, row in enumerate(shown.rows):
        top, left = number // 6 * 8, number % 6 * 8
        cell = shown.sprite[top : top + 8, left : left + 8].astype(float)
        assert cell.mean((1, 2)).argmax() == 2 * int(row["label"])


def test_points_of_an_autoencoder_are_codes(two_runs):
    shown = Projected(two_runs / "other")
    assert shown.points.shape == (30, 3)
    assert list(shown.rows[0]) == ["target", "index"]
    assert {row["target"] for row in shown.rows} == {"0", "1", "2"}


def test_a_resumed_run_shows_the_same_points(experiment, tmp_path):
    """This includes a run that was interrupted after it had written them."""
    write_folder(tmp_path)
    chosen = experiment(CONFIG | RECORDED)
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    before = Projected(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    dltrain.resume(tmp_path / "run", quiet=True)
    after = Projected(tmp_path / "run")
    assert torch.equal(after.points, before.points)
    assert (after.rows, after.info) == (before.rows, before.info)


@pytest.mark.parametrize(
    ("config", "columns"),
    [
        ("toy_text", ["label", "prediction", "verdict", "text", "index"]),
        ("toy_regression", ["target", "prediction", "index"]),
    ],
)
def test_points_of_texts_and_values(tmp_path, config, columns):
    chosen = dltrain.load(TINY / f"{config}.yaml", ["recording.embeddings=9"])
    dltrain.train(chosen, run_dir=tmp_path / "run", quiet=True)
    shown = Projected(tmp_path / "run")
    assert len(shown.points) == 9
    assert shown.sprite is None
    assert list(shown.rows[0]) == columns
    for row in shown.rows:
        if config == "toy_text":
            assert len(row["text"].split()) > 2
            assert "<pad>" not in row["text"]
        else:
            assert abs(float(row["target"]) - float(row["prediction"])) < 3


def test_a_task_without_points_is_an_error_at_the_line_of_the_option(call, tmp_path, monkeypatch):
    write_images(tmp_path / "MNIST" / "raw", 200, 40, 28, 10)
    monkeypatch.chdir(tmp_path)
    words = [TINY / "mnist_gan.yaml", f"data.root={tmp_path}", "data.validation=40"]
    ended = call("train", *words, "recording.embeddings=10")
    assert ended.code == 2
    assert "recording.embeddings: task 'gan' has no points to show" in ended.err
    assert not (tmp_path / "runs").exists()


def test_wide_points_keep_their_distances():
    from dltrain.tasks.embedding import narrowed

    generator = torch.Generator().manual_seed(0)
    few = torch.randn(50, 5, generator=generator)
    wide = few @ torch.randn(5, 300, generator=generator) + 3
    before = torch.get_rng_state()
    narrow = narrowed(wide)
    assert torch.equal(torch.get_rng_state(), before)
    assert narrow.shape == (50, 50)
    assert torch.equal(narrow, narrowed(wide))
    assert torch.allclose(torch.cdist(narrow, narrow), torch.cdist(wide, wide), rtol=1e-3, atol=0.1)
    assert narrowed(few) is few


def test_large_images_are_reduced_and_cells_are_not_split(tmp_path):
    logger = TensorBoard(tmp_path / "tensorboard", "", {}, lambda: torch.zeros(1))
    images = torch.zeros(4, 3, 300, 150, dtype=torch.uint8)
    images[:, 0] = 200
    rows = [("a\tb\nc\x1b[31m\udcff", str(number)) for number in range(4)]
    logger.log_embedding(7, Embedding(torch.rand(4, 2), ("text", "index"), rows, images))
    logger.close()
    shown = Projected(tmp_path)
    assert list(shown.info.sprite.single_image_dim) == [64, 64]
    assert shown.sprite is not None
    assert shown.sprite.shape == (128, 128, 3)
    assert np.abs(shown.sprite[:64, 16:48] - np.array([200, 0, 0])).max() <= 1
    assert (shown.sprite[:, :16] == 0).all()
    assert [row["text"] for row in shown.rows] == 4 * [r"a b c\x1b[31m\udcff"]


def test_any_text_can_be_a_tag_or_a_figure(tmp_path):
    logger = TensorBoard(tmp_path, "", {}, lambda: torch.zeros(1))
    logger.log_scalars(1, 1.0, "val", {"loss": 1.0, "f1_\x1b[31m\udcff": 0.5})
    pages = [Figure("of/\u202e\udcff", "text", "    \x1b]0;owned\x07\udcff")]
    task = SimpleNamespace(figures=lambda: pages, model=torch.nn.Linear(1, 1), scalars=["loss"])
    logger.on_evaluation_end(1, "val", task)
    logger.close()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for text in (rb"val/f1_\x1b[31m\udcff", rb"val/of/\u202e\udcff", rb"\x1b]0;owned\x07\udcff"):
        assert text in content


def test_a_model_without_a_linear_layer_shows_its_output():
    from torch import nn

    from dltrain.tasks.embedding import features_and_outputs

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features, outputs = features_and_outputs(model, torch.rand(5, 1, 8, 8))
    assert torch.equal(features, outputs)
    assert features.shape == (5, 2)
