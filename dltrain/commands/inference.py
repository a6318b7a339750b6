"""A trained model, read from a run's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dltrain.build import Machine, build_machine, build_task
from dltrain.checkpoint import Checkpoints, load
from dltrain.config import Experiment
from dltrain.errors import RunError
from dltrain.run import Run
from dltrain.spec import DataSpec, Task, spec_from_json


@dataclass(frozen=True)
class Trained:
    """A model with a checkpoint's weights, in evaluation mode.

    Attributes:
        experiment: What it was trained as.
        spec: What its data was like.
        task: The model and what it is used for.
        machine: Where it is.
        checkpoint: Where the weights came from.
    """

    experiment: Experiment
    spec: DataSpec
    task: Task
    machine: Machine
    checkpoint: Path


def load_trained(run_dir: Path, checkpoint: str | None, device: str | None) -> Trained:
    """Builds the model and loads its weights; averaged ones where EMA was on.

    Args:
        run_dir: The run.
        checkpoint: `best`, `latest`, or the name of one of the run's checkpoints; by default the
            best where one is marked, else the latest.
        device: Instead of the config's.

    Raises:
        RunError: There is no such checkpoint, it is damaged, or the model is another one by now;
            never falls back to another checkpoint.
    """
    run = Run.open(run_dir)
    experiment = run.experiment([f"train.device={device}"] if device else [])
    path = _find(run.checkpoints(), checkpoint)
    snapshot = load(path)
    spec = spec_from_json(snapshot.state["spec"])
    machine = build_machine(experiment)
    task = build_task(experiment, spec, machine)
    try:
        task.model.load_state_dict(snapshot.weights())
    except RuntimeError as error:
        raise RunError(misfit(path, run, error)) from error
    task.model.eval()
    return Trained(experiment, spec, task, machine, path)


def misfit(path: Path, run: Run, error: Exception) -> str:
    """Says that a checkpoint belongs to another model or optimizer than the config now has."""
    told = " ".join(str(error).split())
    return f"{path} does not fit what {run.config_path} builds now: {told}"


def _find(checkpoints: Checkpoints, name: str | None) -> Path:
    saved = {path.name: path for path in checkpoints.all()}
    if not saved:
        raise RunError(f"{checkpoints.directory} holds no checkpoint yet")
    latest = next(iter(saved.values()))
    best = checkpoints.best()
    match name:
        case None:
            return best or latest
        case "latest":
            return latest
        case "best":
            if best is None:
                raise RunError(
                    f"{checkpoints.directory} has no best checkpoint: checkpoint.best is not set"
                )
            return best
    if name not in saved:
        raise RunError(f"no checkpoint {name!r}; there are: best, latest, {', '.join(saved)}")
    return saved[name]
