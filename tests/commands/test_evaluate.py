"""Evaluating a run gives the test scalars of its training, whichever weights those were."""

import json

import pytest
import torch
import yaml
from small_runs import write_folder

import dltrain
from dltrain.checkpoints.loading import load_checkpoint
from dltrain.rundir.directory import Run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains with overrides in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path)

    def run(*overrides: str):
        summary = dltrain.train(
            dltrain.load("config.yaml", overrides), run_dir=tmp_path / "run", quiet=True
        )
        return tmp_path / "run", summary

    return run


def scalars_of_test(summary) -> dict:
    names = [name for name in summary.metrics if name.startswith("test/")]
    return {name.removeprefix("test/"): summary.metrics[name] for name in names}


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_with_a_best_checkpoint_it_is_the_best(run, ema):
    # A learning rate so high that the last weights are not the best.
    place, summary = run("optimizer.lr=0.5", "checkpoint.keep=9", f"train.ema={ema}")
    best = f"step-{summary.best['step']:010d}"
    assert summary.tested_weights == best
    found = dltrain.evaluate(place)
    assert found.metrics == pytest.approx(scalars_of_test(summary), rel=1e-6)
    assert found.checkpoint == str(place / "checkpoints" / best)
    for name in ("best", best):
        assert dltrain.evaluate(place, checkpoint=name) == found


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_without_one_it_is_the_latest(run, ema):
    place, summary = run("checkpoint.best=null", f"train.ema={ema}")
    assert summary.tested_weights == ("final" if ema == "null" else "averaged")
    found = dltrain.evaluate(place)
    assert found.metrics == pytest.approx(scalars_of_test(summary), rel=1e-6)
    for name in ("latest", "step-0000000010"):
        assert dltrain.evaluate(place, checkpoint=name) == found
    before = dltrain.evaluate(place, checkpoint="step-0000000006")
    assert before.metrics != found.metrics


def test_averaged_weights_are_what_is_evaluated(run):
    place, _ = run("train.ema=0.9", "checkpoint.best=null")
    path, snapshot, _ = Run(place).checkpoints().newest()
    assert snapshot.averaged
    plain = load_checkpoint(path).model
    from dltrain.build import load_trained

    trained = load_trained(place, None, "cpu")
    used = trained.task.model.state_dict()
    assert all(torch.equal(used[name], tensor) for name, tensor in snapshot.averaged.items())
    assert not all(torch.equal(used[name], plain[name]) for name in plain)


def test_each_split_is_read_without_augmentation(run):
    place, summary = run("data.augment={shift: 3, cutout: 4}", "train.evaluate=10 steps")
    validation = dltrain.evaluate(place, split="val")
    assert validation.samples == 30
    assert validation.metrics["loss"] == pytest.approx(summary.metrics["val/loss"], rel=1e-6)
    train = dltrain.evaluate(place, split="train")
    assert train.samples == 103
    assert train == dltrain.evaluate(place, split="train")


def test_a_run_can_be_moved(run, tmp_path):
    place, summary = run()
    moved = place.rename(tmp_path / "moved")
    assert dltrain.evaluate(moved).metrics == pytest.approx(scalars_of_test(summary), rel=1e-6)


def test_a_damaged_checkpoint_is_named_and_no_other_taken(call, run):
    place, _ = run("checkpoint.best=null")
    file = place / "checkpoints" / "step-0000000010" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ended = call("evaluate", place)
    assert (ended.code, ended.out) == (1, "")
    message, hint = ended.err.splitlines()
    assert message == f"{file}: not what manifest.json says; damaged"
    assert hint.startswith("--checkpoint chooses another; there are: ")
    assert "step-0000000009" in hint
    assert call("evaluate", place, "--checkpoint", "step-0000000009").code == 0


def test_the_configs_device_can_be_replaced(run):
    place, summary = run()
    config = yaml.safe_load((place / "config.yaml").read_text())
    config["train"]["device"] = "cuda:99"
    (place / "config.yaml").write_text(json.dumps(config))
    assert dltrain.evaluate(place, device="cpu").metrics == pytest.approx(
        scalars_of_test(summary), rel=1e-6
    )
