"""Search over a config's values: many trials, each a run, and the best one's config."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from dltrain.build import build_data, build_runtime, build_task
from dltrain.checkpoints.atomic_files import write_atomically
from dltrain.commands.launch import is_launched
from dltrain.commands.resume import resume
from dltrain.commands.train import train
from dltrain.config.settings import steps_in
from dltrain.core.errors import (
    DltrainError,
    InterruptedRunError,
    RunError,
    UsageError,
    print_warning,
)
from dltrain.rundir.changes import changed_code
from dltrain.rundir.directory import run_folder
from dltrain.rundir.summary import Summary
from dltrain.sweeps.plan import Plan, read_plan
from dltrain.sweeps.pruning import Pruning
from dltrain.sweeps.results import Outcome, TrialInfo, page, ranked, short, trial_infos
from dltrain.sweeps.study import Search, Taken, held, verify_sweep
from dltrain.sweeps.workers import end_with_parent, run_workers
from dltrain.training.monitoring import monitorable_scalars
from dltrain.training.validation import monitor_error, validate_settings

BEST = "best.yaml"
MOST_LISTED = 5
"""Trials in a line."""


def sweep(
    config: str | Path,
    space: str | Path,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | Path | None = None,
    jobs: int = 1,
    plugins: Sequence[str | Path] = (),
    quiet: bool = False,
) -> Outcome:
    """Trains trials of a config until there are as many as the sweep's file says.

    Called again it goes on: trials that have ended stay, those whose process was killed are
    resumed from their checkpoints, or done again where they have none.

    Args:
        config: What is swept over.
        space: The sweep's file.
        overrides: `key=value` of the config.
        run_dir: Where; `runs/NAME/sweep-FILE` if not given.
        jobs: How many processes; they share the threads. More than one import the plug-ins anew.
        plugins: Files of the user's own components, which have been loaded.
        quiet: Whether to show nothing but errors.

    Raises:
        ConfigError: A file is wrong, or a value in it; no trial was begun.
        DataError: The data is missing or damaged; no trial was begun.
        UsageError: Optuna is not there, or the directory holds another sweep.
        RunError: No trial came to its end, a process was killed, or the directory holds what no
            sweep has; see `run_files.verify`.
        InterruptedRunError: A signal stopped it, after a checkpoint.
    """
    plan = _plan(Path(config), Path(space), overrides)
    run_dir = None if run_dir is None else Path(run_dir)
    plugins = [Path(plugin) for plugin in plugins]
    if jobs == 1:
        with _search(plan, run_dir, Path(space), quiet) as search:
            _warn_of_other_code(search, quiet)
            _work(search, plugins, quiet)
            return _found(search)
    with closing(_search(plan, run_dir, Path(space), quiet)) as search:
        _warn_of_other_code(search, quiet)
        words = ["sweep", str(config), str(space), *overrides, "--run-dir", str(search.directory)]
        words += [word for path in plugins for word in ("--plugin", str(path))]
        words += ["--worker", *(["--quiet"] if quiet else [])]
        try:
            run_workers(words, min(jobs, plan.trials))
        except (RunError, InterruptedRunError) as error:
            error.add_note("resume with the same command")
            raise
        return _found(search)


def work(
    config: Path,
    space: Path,
    overrides: Sequence[str],
    *,
    run_dir: Path,
    plugins: Sequence[Path],
    quiet: bool,
) -> None:
    """Trains trials as one of several processes; see `sweep`."""
    end_with_parent()
    with _search(_plan(config, space, overrides), run_dir, space, quiet) as search:
        _work(search, plugins, quiet)


def _plan(config: Path, space: Path, overrides: Sequence[str]) -> Plan:
    if find_spec("optuna") is None or find_spec("cmaes") is None:
        raise UsageError("a sweep needs Optuna: pip install 'dltrain[sweep]'")
    if is_launched():
        raise UsageError("a sweep starts its own processes, with --jobs: leave the launcher out")
    return read_plan(config, space, overrides)


def _search(plan: Plan, directory: Path | None, space: Path, quiet: bool) -> Search:
    """Looks at the data and at what is recorded, before there is a directory."""
    experiment = plan.experiment(plan.first)
    directory = directory or run_folder(experiment.name) / f"sweep-{space.stem}"
    verify_sweep(directory)
    # Without the metric, which may not be there: the sweep's file is to blame for it.
    unmonitored = replace(experiment, checkpoint=replace(experiment.checkpoint, best=None))
    runtime = build_runtime(unmonitored)
    say = (lambda _text: None) if quiet else print_warning
    data = build_data(unmonitored, runtime, say)
    task = build_task(unmonitored, data.spec, runtime)
    validate_settings(unmonitored, data, task, runtime)
    metric, settings, samples = str(plan.metric), experiment.train, len(data.train)
    if (error := monitor_error(task, data, metric)) is not None:
        raise plan.no_such_metric(error)
    every = steps_in(settings.evaluate, settings.steps_per_epoch(samples))
    evaluations = math.ceil(settings.total_steps(samples) / every)
    return Search(directory, plan, monitorable_scalars(task, data)[metric], evaluations)


def _warn_of_other_code(search: Search, quiet: bool) -> None:
    if not quiet:
        for change in _other_code(search):
            print_warning(f"warning: {change}; results may differ")


def _other_code(search: Search) -> list[str]:
    """How the user's own code differs from what trials were trained with, a line each."""
    found: dict[str, list[int]] = {}
    for trial in search.trials():
        run = search.run_of(trial.number)
        if run.record_path.exists():
            for change in changed_code(run.experiment(), run.record()):
                found.setdefault(change, []).append(trial.number)
    lines = []
    for change, numbers in found.items():
        listed = ", ".join(map(str, numbers[:MOST_LISTED]))
        more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
        lines.append(f"trial{'s' if len(numbers) > 1 else ''} {listed}{more}: {change}")
    return lines


def _work(search: Search, plugins: Sequence[Path], quiet: bool) -> None:
    """Trains one trial after another until none is left."""
    try:
        while (taken := search.take()) is not None:
            _train(search, taken, plugins)
            trials = trial_infos(search)
            best = _write_best(search, trials)
            if not quiet:
                print_warning(_line(search, trials[taken.number], best))
    except InterruptedRunError as error:
        error.__notes__ = ["resume with the same command"]
        raise


def _train(search: Search, taken: Taken, plugins: Sequence[Path]) -> None:
    try:
        summary = _summary(search, taken, plugins)
    except InterruptedRunError:
        raise
    except DltrainError as error:  # others may do better
        search.finish(taken, "FAIL", error=str(error))
        return
    best = summary.best
    if summary.status == "pruned":
        search.finish(taken, "PRUNED")
    elif summary.status == "failed" or best is None:
        message = summary.error or f"{search.plan.metric} was never finite"
        search.finish(taken, "FAIL", error=message)
    else:
        search.finish(taken, "COMPLETE", best["value"])


def _summary(search: Search, taken: Taken, plugins: Sequence[Path]) -> Summary:
    """Of the trial's run, which is begun, gone on with, or over."""
    run = taken.run
    ended = run.summary()
    if ended is not None and ended.status != "stopped":
        return ended
    if search.given_up(taken):
        raise RunError("its process was killed again and again, and never got further")
    experiment = search.plan.experiment(taken.values)
    pruning = Pruning(taken.trial, search.metric, experiment.train.evaluate)
    if run.checkpoints().all():
        return resume(run.directory, quiet=True, loggers=[pruning])
    if run.directory.exists():  # killed before anything was saved
        shutil.rmtree(run.directory)
    return train(experiment, run_dir=run.directory, quiet=True, plugins=plugins, loggers=[pruning])


def _line(search: Search, trial: TrialInfo, best: TrialInfo | None) -> str:
    """How a trial ended."""
    value = "" if trial.value is None else f"  {search.metric} {trial.value:.5g}"
    drawn = "  ".join(f"{key}={short(value)}" for key, value in trial.values.items())
    mark = "  (the best so far)" if trial == best else ""
    error = f"  {trial.error.splitlines()[0]}" if trial.error else ""
    return f"trial {trial.number:<3} {trial.state:7}{value}  {drawn}{mark}{error}"


def _write_best(search: Search, trials: Sequence[TrialInfo]) -> TrialInfo | None:
    """Keeps `best.yaml` what it should be; the best trial, if there is one."""
    best = next(iter(ranked(trials, search.higher_is_better)), None)
    if best is not None:
        told = f"# Trial {best.number} of {search.directory}: {search.metric} {best.value:.6g}\n"
        config = search.run_of(best.number).config_text().encode()
        with held(search.directory / "lock"):
            write_atomically(search.directory / BEST, told.encode() + config)
    return best


def _found(search: Search) -> Outcome:
    """Writes the page about all trials.

    Raises:
        RunError: None came to its end.
    """
    trials = trial_infos(search)
    best = _write_best(search, trials)
    if best is None:
        errors = [f"trial {trial.number}: {trial.error}" for trial in trials if trial.error]
        raise RunError("\n".join(["no trial came to its end", *errors[:1]]))
    outcome = Outcome(
        directory=str(search.directory),
        metric=search.metric,
        higher_is_better=search.higher_is_better,
        trials=trials,
        best=best,
        config=str(search.directory / BEST),
        report=str(search.directory / "report.html"),
        importance=search.importance(),
        notices=_other_code(search),
    )
    content = page(outcome, search.plan.dimensions, search.run_of(best.number).config_text())
    write_atomically(Path(outcome.report), content.encode(errors="replace"))
    return outcome
