"""Train PyTorch models from one YAML file.

    import dltrain

    experiment = dltrain.load("mnist_cnn", ["train.epochs=1"])
    summary = dltrain.train(experiment)

Components of your own register with `@dltrain.MODELS.register` and its siblings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dltrain._version import __version__ as __version__

if TYPE_CHECKING:
    from dltrain.commands.check import check as check
    from dltrain.commands.compare import compare as compare
    from dltrain.commands.evaluate import evaluate as evaluate
    from dltrain.commands.export import export as export
    from dltrain.commands.init import init as init
    from dltrain.commands.init import init_example as init_example
    from dltrain.commands.open_run import Run as Run
    from dltrain.commands.predict import predict as predict
    from dltrain.commands.profile import profile as profile
    from dltrain.commands.report import report as report
    from dltrain.commands.reproduce import reproduce as reproduce
    from dltrain.commands.resume import resume as resume
    from dltrain.commands.runs import runs as runs
    from dltrain.commands.sample import sample as sample
    from dltrain.commands.serve import serve as serve
    from dltrain.commands.sweep import sweep as sweep
    from dltrain.commands.train import train as train
    from dltrain.commands.tune_batch import tune_batch as tune_batch
    from dltrain.commands.tune_lr import tune_lr as tune_lr
    from dltrain.config import Experiment as Experiment
    from dltrain.config import load as load
    from dltrain.core.batch import Batch as Batch
    from dltrain.core.data_spec import DataSpec as DataSpec
    from dltrain.core.protocols import Data as Data
    from dltrain.core.protocols import DataContext as DataContext
    from dltrain.core.protocols import Loss as Loss
    from dltrain.core.protocols import Metric as Metric
    from dltrain.core.registry import DATA as DATA
    from dltrain.core.registry import LOSSES as LOSSES
    from dltrain.core.registry import METRICS as METRICS
    from dltrain.core.registry import MODELS as MODELS
    from dltrain.core.registry import OPTIMIZERS as OPTIMIZERS
    from dltrain.core.registry import SCHEDULES as SCHEDULES
    from dltrain.core.registry import TASKS as TASKS
    from dltrain.core.registry import Limits as Limits
    from dltrain.core.task import Figure as Figure
    from dltrain.core.task import Phase as Phase
    from dltrain.core.task import Task as Task
    from dltrain.core.task import TaskContext as TaskContext
    from dltrain.loggers.base import Logger as Logger
else:
    # Type checkers read the imports above. At run time the names come from here, one by one:
    # torch is imported when a name that needs it is first used, so `import dltrain` stays quick.
    _MODULES = {
        "check": "dltrain.commands.check",
        "compare": "dltrain.commands.compare",
        "evaluate": "dltrain.commands.evaluate",
        "export": "dltrain.commands.export",
        "init": "dltrain.commands.init",
        "init_example": "dltrain.commands.init",
        "Run": "dltrain.commands.open_run",
        "predict": "dltrain.commands.predict",
        "profile": "dltrain.commands.profile",
        "report": "dltrain.commands.report",
        "reproduce": "dltrain.commands.reproduce",
        "runs": "dltrain.commands.runs",
        "sample": "dltrain.commands.sample",
        "serve": "dltrain.commands.serve",
        "sweep": "dltrain.commands.sweep",
        "resume": "dltrain.commands.resume",
        "train": "dltrain.commands.train",
        "tune_batch": "dltrain.commands.tune_batch",
        "tune_lr": "dltrain.commands.tune_lr",
        "Experiment": "dltrain.config",
        "load": "dltrain.config",
        "DATA": "dltrain.core.registry",
        "LOSSES": "dltrain.core.registry",
        "METRICS": "dltrain.core.registry",
        "MODELS": "dltrain.core.registry",
        "OPTIMIZERS": "dltrain.core.registry",
        "SCHEDULES": "dltrain.core.registry",
        "TASKS": "dltrain.core.registry",
        "Limits": "dltrain.core.registry",
        "Batch": "dltrain.core.batch",
        "Data": "dltrain.core.protocols",
        "DataContext": "dltrain.core.protocols",
        "DataSpec": "dltrain.core.data_spec",
        "Loss": "dltrain.core.protocols",
        "Metric": "dltrain.core.protocols",
        "Logger": "dltrain.loggers.base",
        "Figure": "dltrain.core.task",
        "Phase": "dltrain.core.task",
        "Task": "dltrain.core.task",
        "TaskContext": "dltrain.core.task",
    }
    __all__ = list(_MODULES)

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module 'dltrain' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return [*__all__, *(name for name in globals() if name.startswith("__"))]
