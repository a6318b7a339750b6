"""How a run's end is shown: the metrics of one checkpoint stand together."""

import dataclasses

import pytest
from small_runs import CONFIG, recorded, write_folder

import dltrain
from dltrain.plain import decimal
from dltrain.terminal import print_summary


@pytest.fixture
def summary(experiment, tmp_path):
    """Of a run whose best checkpoint is not the last one."""
    write_folder(tmp_path)
    config = {
        **CONFIG,
        "optimizer": {"name": "sgd", "lr": 3.0},
        "train": {**CONFIG["train"], "steps": 30, "evaluate": "1 step"},
    }
    summary = dltrain.train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    assert summary.best is not None
    assert 0 < summary.best["step"] < summary.step
    return summary


def shown(summary, capsys) -> list[str]:
    print_summary(summary)
    return capsys.readouterr().out.splitlines()


def at(run, step: int) -> dict[str, float]:
    """The validation metrics that a run recorded at a step."""
    lines = [line for line in recorded(run) if line["split"] == "val" and line["step"] == step]
    return {f"val/{line['name']}": line["value"] for line in lines}


def test_metrics_of_the_best_and_of_the_last_checkpoint_stand_apart(summary, tmp_path, capsys):
    lines = shown(summary, capsys)
    best, last = at(tmp_path / "run", summary.best["step"]), at(tmp_path / "run", summary.step)
    test = {n: v for n, v in summary.metrics.items() if n.startswith("test/")}
    assert summary.best_metrics == best != last
    start = lines.index(f"best checkpoint, step {summary.best['step']}:")
    middle = lines.index(f"last step, {summary.step}:")
    named = {**best, **test}  # the test split was read with the best weights
    assert [line.split() for line in lines[start + 1 : middle]] == [
        [name, f"{value:.6g}"] for name, value in named.items()
    ]
    assert [line.split() for line in lines[middle + 1 : middle + 1 + len(last)]] == [
        [name, f"{value:.6g}"] for name, value in last.items()
    ]
    assert not any("test/" in line for line in lines[middle:])


def test_there_is_one_block_where_the_last_step_is_the_best(summary, capsys):
    best = {**summary.best, "step": summary.step}
    lines = shown(dataclasses.replace(summary, best=best), capsys)
    assert not any(line.endswith(":") for line in lines)
    assert sum("val/accuracy" in line for line in lines) == 2  # and that it is the best


def test_why_it_stopped_early_is_shown(summary, capsys):
    stopped = {"step": 9, "metric": "val/loss", "value": None, "best": 0.5, "patience": 1}
    early = dataclasses.replace(summary, stopped_early={**stopped, "min_delta": 0.0})
    line = "stopped early at step 9: val/loss has not improved in 1 evaluation; it is not finite, "
    assert f"{line}and its best was 0.5" in shown(early, capsys)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((1000.0, "1000"), (1234.0, "1234"), (1e6, "1000000"), (10.0, "10"), (0.0, "0")),
        *((4 / 15, "0.267"), (1234.5678, "1234.568")),
    ],
)
def test_an_epoch_is_shown_in_full(number, text):
    assert decimal(number) == text


def test_a_thousand_epochs_are_shown_in_full(experiment, tmp_path, capsys):
    config = {
        "model": "linear",
        "data": {"name": "toy_line", "samples": 20},
        "loss": "mse",
        "optimizer": {"name": "sgd", "lr": 0.01},
        "train": {"epochs": 1234, "batch_size": 20, "evaluate": "500 epochs", "device": "cpu"},
        "checkpoint": {"every": "1000 epochs"},
        "recording": {"tensorboard": False, "log_every": 1000},
    }
    summary = dltrain.train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    assert shown(summary, capsys)[0].startswith("done after 1234 steps (1234 epochs) in ")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "epoch 1000   step 1000/1234 " in log
