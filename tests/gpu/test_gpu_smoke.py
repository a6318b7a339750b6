"""One short run of each kind, all of which must learn; takes less than half a minute."""

import math

import pytest
import torch
from gpu_config import CONFIG, IMAGES, LANGUAGE, TEXT
from gpu_steps import weights

pytestmark = pytest.mark.gpu

RUNS = {
    "cnn": (IMAGES, ()),
    "lstm": (TEXT, ()),
    "gpt": (
        LANGUAGE | {"model": {"name": "gpt", "layers": 2, "heads": 2, "width": 32}},
        (),
    ),
    "bf16": (IMAGES, ("train.precision=bf16",)),
    "fp16": (IMAGES, ("train.precision=fp16",)),
    "graph": (IMAGES, ("train.cuda_graph=on",)),
    "compile": (CONFIG, ("train.compile=true",)),
}


@pytest.mark.filterwarnings("default")  # advice of the compiler is not relevant here
@pytest.mark.parametrize("kind", RUNS)
def test_smoke(make_trainer, images, kind):
    config, options = RUNS[kind]
    trainer = make_trainer(*options, config=config)
    before = weights(trainer)
    untrained = trainer.evaluate(trainer.data.train, "train")["loss"]
    trainer.fit()
    trained = trainer.evaluate(trainer.data.train, "train")["loss"]
    assert math.isfinite(trained)
    assert trained < untrained
    assert not torch.equal(weights(trainer), before)
    assert trainer.state.step == 15
