"""Loggers: metrics.jsonl, TensorBoard's event files, the terminal and log.txt."""

import io
import json
import os
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import write_images
from small_runs import CONFIG, read_metric_lines, write_folder

import dltrain
from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.core.errors import InterruptedRunError
from dltrain.core.protocols import ProcessGroup
from dltrain.loggers import MetricsFile, Progress, TensorBoard
from dltrain.tasks import figures
from dltrain.tasks.examples import Examples

TINY_CNN = Path(__file__).parents[2] / "configs" / "tiny" / "mnist_cnn.yaml"


def events(run: Path) -> list:
    """Read every event of a run with TensorBoard's own reader, file by file."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    paths = sorted((run / "tensorboard").iterdir())
    return [event for path in paths for event in EventFileLoader(str(path)).Load()]


def board_scalars(run: Path) -> Counter:
    """Count each (tag, step, bits of the float32) that TensorBoard reads."""
    from tensorboard.util import tensor_util

    found = Counter()
    for event in events(run):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                number = float(tensor_util.make_ndarray(value.tensor))
                found[value.tag, event.step, struct.pack("<f", number)] += 1
    return found


def file_scalars(run: Path, *, clock: bool = True) -> Counter:
    """The same of metrics.jsonl; TensorBoard shows time and memory in the group `train`."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return Counter(
        (
            f"{line['split'].replace('system', 'train')}/{line['name']}",
            line["step"],
            struct.pack("<f", float("nan") if line["value"] is None else line["value"]),
        )
        for line in lines
        if clock or line["split"] != "system"
    )


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """A finished run of the smallest convolutional network."""
    place = tmp_path_factory.mktemp("cnn")
    write_images(place / "MNIST" / "raw", 300, 60, 28, 10)
    experiment = dltrain.load(TINY_CNN, [f"data.root={place}", "recording.images=9"])
    dltrain.train(experiment, run_dir=place / "run", quiet=True)
    return place / "run"


# --------------------------------------------------------------------------------- metrics.jsonl


def test_each_line_of_metrics_has_the_same_five_keys(cnn):
    lines = [json.loads(line) for line in (cnn / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert list(line) == ["step", "epoch", "split", "name", "value"]
        assert type(line["step"]) is int
        assert line["epoch"] == pytest.approx(line["step"] / 15, abs=1e-6)
        assert line["split"] in ("train", "val", "test", "system")
        assert type(line["value"]) in (float, int)
    named = {(line["split"], line["name"], line["step"]) for line in lines}
    assert len(named) == len(lines)
    losses = {step for split, name, step in named if (split, name) == ("train", "loss")}
    assert losses == {2, 4, 6, 8}
    assert {s for split, name, s in named if (split, name) == ("val", "accuracy")} == {4, 8}
    assert {s for split, _, s in named if split == "test"} == {8}


def test_the_last_line_of_each_scalar_is_in_the_summary(cnn):
    lines = [json.loads(line) for line in (cnn / "metrics.jsonl").read_text().splitlines()]
    last = {f"{line['split']}/{line['name']}": line["value"] for line in lines}
    assert last == json.loads((cnn / "summary.json").read_text())["metrics"]


def test_non_finite_values_are_null(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    values = {"a": float("nan"), "b": float("-inf"), "c": 0.1}
    file.log_scalars(1, 0.5, "train", values)
    file.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["value"] for line in lines] == [None, None, 0.1]


# ----------------------------------------------------------------------------------- TensorBoard


def test_tensorboard_reads_exactly_the_scalars_of_metrics(cnn):
    scalars = file_scalars(cnn)
    assert board_scalars(cnn) == scalars
    assert set(scalars.values()) == {1}
    assert {"val/f1", "train/loss", "test/loss"} <= {tag for tag, _, _ in scalars}


@pytest.fixture
def interrupted(experiment, tmp_path):
    """A run with TensorBoard that was interrupted after 7 of 10 steps."""
    write_folder(tmp_path)
    config = CONFIG | {"model": {"name": "stochastic"}, "recording": {"log_every": 2}}
    whole = dltrain.train(experiment(config), run_dir=tmp_path / "whole", quiet=True)
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        dltrain.train(experiment(config, "model.stop_at=7"), run_dir=run, quiet=True)
    return run, tmp_path / "whole", whole


def check_whole(run: Path, whole: Path) -> None:
    assert board_scalars(run) == file_scalars(run)
    assert set(file_scalars(run).values()) == {1}
    assert file_scalars(run, clock=False) == file_scalars(whole, clock=False)
    assert read_metric_lines(run) == read_metric_lines(whole)
    assert plugins(run) == plugins(whole)


def plugins(run: Path) -> Counter:
    """Count the summaries of each plug-in, tag and step, without those of time and memory."""
    return Counter(
        (value.metadata.plugin_data.plugin_name, value.tag, event.step)
        for event in events(run)
        for value in event.summary.value
        if not value.tag.endswith(("/samples_per_second", "/peak_memory_bytes"))
    )


def test_a_resumed_run_has_each_summary_once(interrupted):
    run, whole, summary = interrupted
    assert dltrain.resume(run, quiet=True).weights_sha256 == summary.weights_sha256
    check_whole(run, whole)


def test_events_after_the_last_checkpoint_of_a_killed_process_are_truncated(interrupted):
    from torch.utils.tensorboard import SummaryWriter

    run, whole, summary = interrupted
    (written,) = (run / "tensorboard").iterdir()
    with SummaryWriter(str(run / "tensorboard")) as writer:
        writer.add_scalar("train/loss", 1.0, 8)
    (other,) = set((run / "tensorboard").iterdir()) - {written}
    written.write_bytes(written.read_bytes() + other.read_bytes()[:-3])
    line = '{"step": 8, "epoch": 2.0, "split": "train", "name": "loss", "value": 1.0}\n'
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + line[:30])
    assert dltrain.resume(run, quiet=True).weights_sha256 == summary.weights_sha256
    check_whole(run, whole)


def test_event_files_contain_every_kind_of_summary(cnn):
    kinds = plugins(cnn)
    for split, steps in (("val", (4, 8)), ("test", (8,))):
        for step in steps:
            assert kinds["images", f"{split}/examples", step] == 1
            assert kinds["images", f"{split}/confusion_matrix", step] == 1
            for digit in range(10):
                assert kinds["pr_curves", f"{split}/precision_recall/{digit}", step] == 1
    assert kinds["text", "config/text_summary", 0] == 1
    assert kinds["custom_scalars", "custom_scalars__config__", 0] == 1
    for tag in ("session_start_info", "session_end_info"):
        assert kinds["hparams", f"_hparams_/{tag}", 0] == 1


def test_the_graph_and_the_config_can_be_read(cnn):
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.util import tensor_util

    graphs = [event.graph_def for event in events(cnn) if event.graph_def]
    assert len(graphs) == 1
    operations = {node.op for node in GraphDef.FromString(graphs[0]).node}
    assert {"aten::_convolution_mode", "aten::max_pool2d", "aten::linear"} <= operations
    (text,) = [
        tensor_util.make_ndarray(value.tensor)[0].decode()
        for event in events(cnn)
        for value in event.summary.value
        if value.tag == "config/text_summary"
    ]
    assert (cnn / "config.yaml").read_text() in text


def test_the_hparams_table_has_options_and_final_metrics(cnn):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(cnn)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    options = found["_hparams_/session_start_info"].session_start_info.hparams
    assert options["optimizer.lr"].number_value == 3e-3
    assert options["model.name"].string_value == "cnn"
    assert options["model.channels"].string_value == "[32, 64]"
    assert not any(name.startswith("metrics") for name in options)


def images(run: Path, tag: str) -> list[np.ndarray]:
    from tensorboard.util import tensor_util

    return [
        np.array(Image.open(io.BytesIO(tensor_util.make_ndarray(value.tensor)[2])))
        for event in events(run)
        for value in event.summary.value
        if value.tag == tag
    ]


def test_the_grid_of_examples_shows_the_samples(cnn):
    """Each of nine cells shows one bright row, whose position encodes the class."""
    shown = images(cnn, "val/examples")
    assert [image.shape for image in shown] == 2 * [(3 * 150 + 4, 3 * 116 + 4, 3)]
    (batch,) = dataset(cnn).validation.batches(64)
    distinct = list(dict.fromkeys(batch.targets.tolist()))[:9]  # of ten classes, one of each
    assert len(distinct) == 9
    for i, target in enumerate(distinct):
        top, left = 4 + i // 3 * 150 + 34, 4 + i % 3 * 116
        cell = shown[0][top : top + 112, left : left + 112].astype(float)
        assert cell.std(2).max() == 0  # grey
        assert cell.mean((1, 2)).argmax() // 4 == 2 * target


@pytest.mark.parametrize(
    ("num_classes", "most", "expected"),
    [
        (3, 4, [0, 0, 1, 2]),  # of classes that can't have equally many, the first have one more
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (3, 2, [0, 1]),
        (0, 3, [0, 0, 0]),
        (3, 100, 5 * [0] + 3 * [1] + 2 * [2]),
        (5, 5, [0, 1, 2]),  # two classes have no sample: one of each, and no more
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_examples_are_of_all_classes_where_the_split_is_sorted(
    num_classes, most, expected, batch_size
):
    """The index of a sample is also its input and its prediction."""
    targets, numbers = torch.tensor(5 * [0] + 3 * [1] + 2 * [2]), torch.arange(10)
    examples = Examples(most, num_classes, ProcessGroup())
    for index in numbers.split(batch_size):
        examples.update(Batch(index, targets[index], index), index, targets[index])
    chosen = examples.selected()
    assert chosen is not None
    inputs, predictions, found = chosen
    assert found.tolist() == expected
    assert torch.equal(inputs, predictions)
    assert torch.equal(targets[inputs], found)
    examples.reset()
    assert examples.selected() is None


def dataset(run: Path):
    from dltrain.build import build_data, build_runtime

    experiment = dltrain.load(run / "config.yaml")
    return build_data(experiment, build_runtime(experiment), print)


# ------------------------------------------------------------------------------------- images


def matrix_cells(image: torch.Tensor, classes: int) -> torch.Tensor:
    """(classes, classes) brightness at a corner of each cell, where no number is written."""
    corner = image.shape[1] - 8 - 44 * classes + 4
    at = corner + 44 * torch.arange(classes)
    return image.float().mean(0)[at][:, at]


def test_the_diagonal_of_a_perfect_classifier_is_dark():
    image = figures.confusion_matrix(torch.diag(torch.tensor([5, 9, 1])), ["cat", "dog", "é中"])
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert image.shape[1] == image.shape[2] > 3 * 44
    cells = matrix_cells(image, 3)
    assert cells.diagonal().max() < 110
    assert cells[~torch.eye(3, dtype=torch.bool)].min() == 255


def test_rows_are_the_truth_and_shade_is_the_share_of_the_row():
    counts = torch.tensor([[0, 10, 0], [50, 0, 50], [1, 1, 98]])
    cells = matrix_cells(figures.confusion_matrix(counts, ["a", "b", "c"]), 3)
    assert cells[0, 1] == cells.min()
    assert cells[0, 1] < cells[1, 0] == cells[1, 2] < cells[2, 0] < cells[0, 0] == 255


def test_a_matrix_of_many_classes_is_drawn_without_numbers():
    image = figures.confusion_matrix(
        torch.eye(100, dtype=torch.int64), [str(i) for i in range(100)]
    )
    assert image.shape[1] > 1400
    assert image[:, -200:, -200:].float().min() < 110


def test_examples_are_green_if_right_and_red_with_the_truth_if_wrong():
    spec = DataSpec(
        (3, 4, 4), 2, ImageInputs((0.5,) * 3, (0.25,) * 3), ("ankle boot", "T-shirt/top")
    )
    colour = torch.tensor([200.0, 100.0, 0.0]) / 255
    inputs = ((colour - 0.5) / 0.25)[None, :, None, None].expand(2, 3, 4, 4)
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    image = figures.examples(spec, inputs, sure, torch.tensor([1, 0])).permute(1, 2, 0).float()
    assert image.shape == (154, 236, 3)
    wrong, right = image[4:38, 4:116], image[4:38, 120:232]
    assert (right[..., 1] - right[..., 0]).max() > 80
    assert (right[..., 0] - right[..., 1]).max() <= 0
    assert (wrong[..., 0] - wrong[..., 1]).max() > 80
    assert (wrong[..., 1] - wrong[..., 0]).max() <= 0
    assert (right[18:] == 255).all()  # a second line, with the truth, only where it differs
    assert not (wrong[18:] == 255).all()
    assert (image[:, 116:120] == 255).all()  # no caption reaches into the next cell
    cell = image[38:150, 4:116].reshape(-1, 3)
    assert (cell - torch.tensor([200.0, 100.0, 0.0])).abs().max() <= 1


# ------------------------------------------------------------------------ precision and recall


def test_curve_counts_are_those_of_scikit_learn():
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(200, 3, generator=generator).mul(2).softmax(1)
    targets = torch.randint(3, (200,), generator=generator)
    parts = [figures.curve_counts(p, t, 127) for p, t in batches(probabilities, targets)]
    counts = sum(parts[1:], parts[0])
    for label in range(3):
        curve = figures.pr_curve(counts[label])
        truth = (targets == label).numpy()
        for i in range(0, 127, 21):
            guess = (probabilities[:, label].double() >= i / 126).numpy()
            (tn, fp), (fn, tp) = confusion_matrix(truth, guess, labels=[False, True])
            expected = [
                *(tp, fp, tn, fn),
                precision_score(truth, guess, zero_division=1.0),
                recall_score(truth, guess),
            ]
            assert curve[:, i].tolist() == pytest.approx(expected, abs=1e-12)


def batches(probabilities, targets):
    return zip(probabilities.split(64), targets.split(64), strict=True)


def test_tensorboard_has_the_counts_of_the_final_model(cnn):
    from tensorboard.util import tensor_util

    found = {
        (value.tag, event.step): tensor_util.make_ndarray(value.tensor)
        for event in events(cnn)
        for value in event.summary.value
        if "precision_recall" in value.tag
    }
    (batch,) = dataset(cnn).test.batches(60)
    predictions = predicted(cnn, batch.inputs)
    for digit in range(10):
        tp, fp, tn, fn, *_ = found[f"test/precision_recall/{digit}", 8]
        for i in range(127):
            above = predictions[:, digit].double() >= i / 126
            assert tp[i] == (above & (batch.targets == digit)).sum()
            assert fp[i] == (above & (batch.targets != digit)).sum()
        assert (tp + fn == (batch.targets == digit).sum().item()).all()
        assert (tp + fp + tn + fn == 60).all()


def predicted(run: Path, inputs: torch.Tensor) -> torch.Tensor:
    from dltrain.build import load_trained

    with torch.inference_mode():
        return load_trained(run, None, "cpu").task.predict(inputs)


# -------------------------------------------------------------------------- terminal and log


def show(progress: Progress) -> None:
    progress.on_fit_start(0, 4, 32)
    progress.log_message("hello")
    for step in range(1, 5):
        progress.on_step_end(step)
    progress.log_scalars(4, 1.0, "train", {"loss": 0.25, "gradient_norm": 1.0})
    progress.log_scalars(4, 1.0, "system", {"samples_per_second": 100.0, "peak_memory_bytes": 1})
    progress.log_scalars(4, 1.0, "val", {"loss": 0.5, "accuracy": 0.75})
    progress.log_scalars(4, 1.0, "test", {"loss": 0.5, "accuracy": 0.75})
    progress.close()


LINES = [
    "hello",
    "epoch 1      step 4/4  train loss 0.2500  val loss 0.5000  accuracy 0.7500",
    "test  loss 0.5000  accuracy 0.7500",
]


def test_without_a_terminal_there_are_plain_lines(capsys):
    log = io.StringIO()
    show(Progress(log))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", LINES)
    assert log.getvalue().splitlines() == LINES


def test_quiet_keeps_the_log(capsys):
    log = io.StringIO()
    show(Progress(log, quiet=True))
    assert capsys.readouterr() == ("", "")
    assert log.getvalue().splitlines() == LINES


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_a_bar(monkeypatch, quiet):
    import pty
    import termios

    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    log = io.StringIO()
    with open(terminal, "w") as stderr:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stderr)
        show(Progress(log, quiet))
        stderr.write("end")
        stderr.flush()
        shown = ""
        while not shown.endswith("end"):
            shown += os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert log.getvalue().splitlines() == LINES
    if quiet:
        assert shown == "end"
    else:
        assert "4/4 [" in shown
        assert "100%|" in shown
        assert "loss=0.25" in shown
        assert "samples/s=100" in shown
        for line in LINES:
            assert f"{line}\r\n" in shown


def test_training_continues_when_standard_error_is_closed(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Gone())
    show(Progress(log))
    assert log.getvalue().splitlines() == LINES


def test_the_log_of_a_run(cnn):
    lines = (cnn / "log.txt").read_text().splitlines()
    assert lines[0] == f"run directory: {cnn}"
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["epoch", "0.267", "step", "4/8"],
        ["epoch", "0.533", "step", "8/8"],
    ]
    assert lines[3].startswith("test  loss")
    assert len(lines) == 4


def test_a_resumed_run_adds_to_the_log(interrupted):
    run, *_ = interrupted
    before = (run / "log.txt").read_text()
    dltrain.resume(run, quiet=True)
    after = (run / "log.txt").read_text()
    assert after.startswith(before)
    assert "resuming from " in after[len(before) :]


def test_shortened_files_are_not_lengthened(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.log_scalars(1, 0.5, "train", {"loss": 1.0})
    position = metrics.position()
    metrics.close()
    (tmp_path / "metrics.jsonl").write_text("")
    again = MetricsFile(tmp_path / "metrics.jsonl")
    again.restore(position)
    again.log_scalars(2, 1.0, "train", {"loss": 0.5})
    again.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2

    board = tmp_path / "tensorboard"
    board.mkdir()
    (board / "events.out.tfevents.1.host.1.0").write_bytes(b"abc")
    logger = TensorBoard(board, "", {}, lambda: torch.zeros(1))
    lengths = {"events.out.tfevents.1.host.1.0": 10}
    logger.restore({"bytes": lengths, "introduced": True, "in_table": True})
    assert (board / "events.out.tfevents.1.host.1.0").read_bytes() == b"abc"


def test_a_large_event_file_is_followed_by_exactly_one_other(tmp_path, monkeypatch):
    """Later checkpoints create no further file."""
    monkeypatch.setattr("dltrain.loggers.tensorboard.MAX_FILE_BYTES", 2000)
    logger = TensorBoard(tmp_path, "", {}, lambda: torch.zeros(1))
    counts = []
    for step in range(60):
        logger.log_scalars(step, 0.0, "train", {"loss": 1.0})
        logger.position()
        counts.append(len(list(tmp_path.iterdir())))
    logger.close()
    assert max(counts) == counts[-1]
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert 1 < len(sizes) < 6
    assert all(2000 < size < 2200 for size in sizes[:-1])
