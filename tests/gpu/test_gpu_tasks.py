"""Every task in half precision on a GPU, and real out-of-memory errors."""

import math

import pytest
import torch
from gpu_config import CONFIG, IMAGES, STAND_IN
from gpu_steps import train_steps, weights

import dltrain

pytestmark = pytest.mark.gpu

GAN = {"task": "gan", "model": {"name": "dcgan", "latent": 8, "channels": [8]}, "metrics": []}
AUTOENCODER = {
    "task": "autoencoder",
    "model": {"name": "autoencoder", "latent": 4, "hidden": [32], "variational": True},
    "loss": "mse",
    "metrics": ["mae"],
}
SEQ2SEQ = {
    "task": "seq2seq",
    "model": {"name": "seq2seq_lstm", "hidden_size": 16},
    "data": {"name": "toy_digits", "samples": 600},
    "metrics": ["accuracy"],
}
TASKS = {
    **{loss: GAN | {"loss": loss} for loss in ("non_saturating", "hinge", "wasserstein")},
    "autoencoder": AUTOENCODER,
    "seq2seq": SEQ2SEQ,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_tasks_train_in_every_precision(make_trainer, images, task, precision):
    if STAND_IN and (task, precision) == ("seq2seq", "fp16"):
        pytest.skip("torch has no LSTM in fp16 on a CPU")
    config = IMAGES | TASKS[task]
    trainer = make_trainer(f"train.precision={precision}", "train.epochs=20", config=config)
    before = weights(trainer)
    train_steps(trainer, 5)
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), before)
    values = trainer.evaluate(trainer.data.train, "train")
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("task", TASKS)
def test_results_do_not_depend_on_the_micro_batch_size(make_trainer, images, task):
    config = IMAGES | TASKS[task]
    if task in ("non_saturating", "hinge", "wasserstein"):
        config = config | {"model": {"name": "gan_mlp", "latent": 8, "hidden": [16]}}
    results = []
    for micro in ("null", "7"):
        trainer = make_trainer("train.precision=fp64", f"train.micro_batch={micro}", config=config)
        train_steps(trainer, 4)
        results.append(weights(trainer))
    assert torch.allclose(*results, rtol=1e-9, atol=1e-11)


def test_an_out_of_memory_error_halves_the_micro_batch(make_trainer, requires_cuda, images):
    wide = {"name": "mlp", "hidden": [4096, 4096]}
    options = ["train.micro_batch=auto", "train.precision=fp32", "train.batch_size=65536"]
    data = {"name": "toy_blobs", "samples": 80000}
    trainer = make_trainer(*options, config=IMAGES | {"model": wide, "data": data})
    total = torch.cuda.get_device_properties(0).total_memory
    used = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((used + 1.5 * 2**30) / total)
    try:
        trainer.train_step(next(trainer.data.train.batches(65536, epoch=0)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert trainer.state.micro_batch is not None
    assert trainer.state.micro_batch < 65536
    assert trainer.state.step == 1


def test_tune_batch_finds_the_largest_batch_that_fits(requires_cuda, experiment):
    wide = {"name": "mlp", "hidden": [4096, 4096]}
    data = {"name": "toy_blobs", "samples": 80000}
    loaded = experiment(CONFIG | {"model": wide, "data": data}, "train.batch_size=4096")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((used + 1.5 * 2**30) / total)
    try:
        result = dltrain.tune_batch(loaded, steps=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    fitting = {trial.size: trial.memory_bytes for trial in result.trials if trial.fits}
    assert result.suggestion == max(fitting) >= 4096
    assert any(not trial.fits for trial in result.trials)
    assert 0.5 * 2**30 < fitting[result.suggestion] <= used + 1.5 * 2**30
