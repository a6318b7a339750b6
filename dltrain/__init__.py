"""Train PyTorch models from one YAML file.

    import dltrain

    experiment = dltrain.load("configs/mnist_cnn.yaml", ["train.epochs=1"])
    summary = dltrain.train(experiment)

Components of your own register with `@dltrain.MODELS.register` and its siblings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dltrain._version import __version__ as __version__

if TYPE_CHECKING:
    from dltrain.commands.check import check
    from dltrain.commands.compare import compare
    from dltrain.commands.evaluate import evaluate
    from dltrain.commands.export import export
    from dltrain.commands.init import init
    from dltrain.commands.open_run import Run
    from dltrain.commands.predict import predict
    from dltrain.commands.profile import profile
    from dltrain.commands.report import report
    from dltrain.commands.reproduce import reproduce
    from dltrain.commands.runs import runs
    from dltrain.commands.sample import sample
    from dltrain.commands.serve import serve
    from dltrain.commands.sweep import sweep
    from dltrain.commands.train import resume, train
    from dltrain.commands.tune_batch import tune_batch
    from dltrain.commands.tune_lr import tune_lr
    from dltrain.config import Experiment, load
    from dltrain.registry import DATA, LOSSES, METRICS, MODELS, OPTIMIZERS, SCHEDULES, TASKS
    from dltrain.spec import Batch, Data, DataContext, DataSpec, Loss, Metric

# Torch is imported when a name is first asked for: `import dltrain` stays quick.
_PLACES = {
    "dltrain.commands.check": ("check",),
    "dltrain.commands.compare": ("compare",),
    "dltrain.commands.evaluate": ("evaluate",),
    "dltrain.commands.export": ("export",),
    "dltrain.commands.init": ("init",),
    "dltrain.commands.open_run": ("Run",),
    "dltrain.commands.predict": ("predict",),
    "dltrain.commands.profile": ("profile",),
    "dltrain.commands.report": ("report",),
    "dltrain.commands.reproduce": ("reproduce",),
    "dltrain.commands.runs": ("runs",),
    "dltrain.commands.sample": ("sample",),
    "dltrain.commands.serve": ("serve",),
    "dltrain.commands.sweep": ("sweep",),
    "dltrain.commands.train": ("resume", "train"),
    "dltrain.commands.tune_batch": ("tune_batch",),
    "dltrain.commands.tune_lr": ("tune_lr",),
    "dltrain.config": ("Experiment", "load"),
    "dltrain.registry": (
        "DATA",
        "LOSSES",
        "METRICS",
        "MODELS",
        "OPTIMIZERS",
        "SCHEDULES",
        "TASKS",
    ),
    "dltrain.spec": ("Batch", "Data", "DataContext", "DataSpec", "Loss", "Metric"),
}

__all__ = [
    "DATA",
    "LOSSES",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "TASKS",
    "Batch",
    "Data",
    "DataContext",
    "DataSpec",
    "Experiment",
    "Loss",
    "Metric",
    "Run",
    "check",
    "compare",
    "evaluate",
    "export",
    "init",
    "load",
    "predict",
    "profile",
    "report",
    "reproduce",
    "resume",
    "runs",
    "sample",
    "serve",
    "sweep",
    "train",
    "tune_batch",
    "tune_lr",
]


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'dltrain' has no attribute {name!r}")
