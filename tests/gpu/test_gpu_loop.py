"""The training loop on a GPU: no device sync, and results independent of micro-batch size."""

import math
from contextlib import contextmanager
from itertools import islice

import pytest
import torch
from gpu_config import CONFIG, IMAGES, LANGUAGE, SEQ2SEQ, TEXT
from gpu_steps import is_on_gpu, save_and_load, train_steps, weights
from torch._dynamo.utils import counters

from dltrain.checkpoints.loading import load_checkpoint
from dltrain.core.errors import RunError

pytestmark = pytest.mark.gpu

RARE_EVENTS = [
    *("train.epochs=100", "train.evaluate=100 epochs"),
    *("checkpoint.every=100 epochs", "recording.log_every=100000"),
]


@contextmanager
def synchronization_is_an_error():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("micro", ["null", "20"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loop_does_not_synchronize_with_the_gpu(make_trainer, cuda, images, precision, micro):
    options = [
        *(f"train.precision={precision}", f"train.micro_batch={micro}"),
        *("train.clip_norm=1.0", "train.ema=0.9", "train.on_nonfinite=stop"),
    ]
    trainer = make_trainer(*options, *RARE_EVENTS, config=IMAGES)
    trainer.train_epoch()  # the first one creates optimizer states and cuDNN's plans
    before, loss = weights(trainer), torch.zeros((), device=cuda)
    with synchronization_is_an_error():
        with pytest.raises(RuntimeError, match="synchronizing"):
            loss.item()
        trainer.train_epoch()  # includes the shuffling of the samples
    assert trainer.state.step == 10
    assert not torch.equal(weights(trainer), before)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "muon"])
@pytest.mark.parametrize(
    "loss", ["bce", "{name: cross_entropy, class_weights: balanced, label_smoothing: 0.1}"]
)
def test_no_optimizer_and_no_loss_synchronizes(make_trainer, optimizer, loss, precision):
    options = [f"optimizer.name={optimizer}", f"loss={loss}", "model.hidden=[32, 32]"]
    options.append(f"train.precision={precision}")
    trainer = make_trainer(*options, *RARE_EVENTS)
    trainer.train_epoch()
    with synchronization_is_an_error():
        trainer.train_epoch()
    trainer.drain()
    assert trainer.state.updates == 10


COLOR_IMAGES = CONFIG | {
    "model": {"name": "torchvision", "arch": "resnet18", "small_input": True},
    "data": IMAGES["data"],
}
NETWORKS = {
    "text_lstm": TEXT,
    "text_lstm bidirectional": TEXT
    | {"model": {**TEXT["model"], "bidirectional": True, "pooling": "last"}},
    "text_lstm attention": TEXT | {"model": {**TEXT["model"], "pooling": "attention"}},
    "text_cnn": TEXT | {"model": {"name": "text_cnn", "channels": 8, "embedding_size": 8}},
    "text_transformer": TEXT | {"model": {"name": "text_transformer", "width": 16, "heads": 2}},
    "text_generator": LANGUAGE,
    "gpt": LANGUAGE
    | {"model": {"name": "gpt", "layers": 1, "heads": 2, "width": 16, "dropout": 0.1}},
    "seq2seq_lstm": SEQ2SEQ,
    "resnet18": COLOR_IMAGES,
    "mobilenet_v3_small": COLOR_IMAGES
    | {"model": {"name": "torchvision", "arch": "mobilenet_v3_small"}},
}


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("micro", ["null", "20"])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_network_and_no_data_synchronizes(make_trainer, images, network, micro):
    options = ["train.precision=bf16", "train.clip_norm=1.0", "train.ema=0.9"]
    options += ["train.epochs=null", "train.steps=100", f"train.micro_batch={micro}"]
    trainer = make_trainer(*options, *RARE_EVENTS[1:], config=NETWORKS[network])
    batches = trainer.data.train.batches(64, epoch=0)
    for _ in range(2):  # the first one creates optimizer states and the libraries' plans
        trainer.train_step(next(batches))
    before = weights(trainer)
    with synchronization_is_an_error():
        for batch in islice(trainer.data.train.batches(64, epoch=1), 3):
            trainer.train_step(batch)
    assert trainer.state.updates == 5
    assert not torch.equal(weights(trainer), before)


def test_gradients_do_not_depend_on_the_micro_batch_size(make_trainer):
    results = []
    for size in (64, 16, 7):
        trainer = make_trainer(
            f"train.micro_batch={size}", "train.precision=fp64", "train.clip_norm=0.1"
        )
        before = weights(trainer)
        train_steps(trainer, 5)
        results.append(weights(trainer))
        assert all(p.dtype == torch.float64 for p in trainer.task.model.parameters())
        assert not torch.equal(results[-1], before)
    for other in results[1:]:
        assert torch.allclose(results[0], other, rtol=1e-10, atol=1e-10)


def test_a_nonfinite_loss_is_detected_later_and_reported_for_its_step(make_trainer):
    trainer = make_trainer("model.nan_at=[4]", config=CONFIG | {"model": "stochastic"})
    with pytest.raises(RunError, match=r"step 4: .*nothing was saved yet"):
        trainer.fit()
    assert trainer.state.step == 5, "checked at the end of the epoch, not in each step"
    assert trainer.checkpoint_manager.store.all() == []


def test_nothing_is_saved_after_a_nonfinite_loss(make_trainer):
    config = CONFIG | {"model": "stochastic", "checkpoint": {"every": "2 steps"}}
    trainer = make_trainer("model.nan_at=[3]", config=config)
    with pytest.raises(RunError, match=r"step 3: .*step-0000000002"):
        trainer.fit()
    assert trainer.state.step == 4
    (saved,) = trainer.checkpoint_manager.store.all()
    snapshot = load_checkpoint(saved)
    assert saved.name == "step-0000000002"
    assert all(tensor.isfinite().all() for tensor in snapshot.model.values())


def test_a_nonfinite_step_can_be_skipped(make_trainer):
    config = CONFIG | {"model": "stochastic"}
    trainer = make_trainer("model.nan_at=[2,3]", "train.on_nonfinite=skip", config=config)
    trainer.fit()
    state = trainer.state
    assert (state.step, state.updates, state.skipped) == (15, 13, 2)
    assert math.isfinite(state.last["train/loss"])
    assert weights(trainer).isfinite().all()


def test_convolutions_use_channels_last(make_trainer, images):
    trainer = make_trainer(config=IMAGES)
    # The first one has a single input channel, so its strides are the same in both layouts.
    _, second = (m for m in trainer.task.model.modules() if isinstance(m, torch.nn.Conv2d))
    outputs = []
    second.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    train_steps(trainer, 1)
    (output,) = outputs
    (optimizer,) = trainer.task.phases[0].optimizers
    moments = [optimizer.state[second.weight][name] for name in ("exp_avg", "exp_avg_sq")]
    for tensor in (second.weight, output, *moments):
        assert is_on_gpu(tensor)
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


@pytest.mark.filterwarnings("default")  # advice of the compiler is not relevant here
def test_a_compiled_model_saves_the_keys_of_an_eager_one(make_trainer):
    options = ["model.hidden=[32, 32]", "optimizer={name: sgd, lr: 0.1}"]
    plain, compiled = make_trainer(*options), make_trainer(*options, "train.compile=true")
    counters.clear()
    train_steps(plain, 5)
    train_steps(compiled, 5)
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    assert torch.allclose(weights(compiled), weights(plain), atol=1e-4)
    snapshot = save_and_load(compiled)
    assert snapshot.model.keys() == plain.task.model.state_dict().keys()
    assert not any("_orig_mod" in name for name in (*snapshot.model, *snapshot.optimizer))
    plain.restore(snapshot)
    assert torch.equal(weights(plain), weights(compiled))
    train_steps(plain, 1)
