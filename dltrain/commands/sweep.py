"""Search over values of a config: many trials, each a run, and the config of the best one."""

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
from dltrain.sweeps.locks import lock_file
from dltrain.sweeps.plan import Plan, read_plan
from dltrain.sweeps.pruning import Pruning
from dltrain.sweeps.results import (
    Outcome,
    TrialInfo,
    format_sample,
    rank_trials,
    render_report,
    trial_infos,
)
from dltrain.sweeps.study import ClaimedTrial, Search, verify_sweep
from dltrain.sweeps.workers import end_with_parent, run_workers
from dltrain.training.monitoring import monitorable_scalars
from dltrain.training.validation import monitor_error, validate_settings

BEST = "best.yaml"
MOST_LISTED = 5
"""Maximum number of trials in a line."""


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
    """Train trials of a config, up to the number in the sweep's file.

    The same call resumes a sweep: trials that have ended are kept, and those whose process was
    killed are resumed from their checkpoints, or restarted if they have none.

    Args:
        config: Config to vary.
        space: The sweep's file.
        overrides: `key=value` to apply to the config.
        run_dir: Directory of the sweep (default: `runs/NAME/sweep-FILE`).
        jobs: Number of processes; they share the threads. Several processes import the plug-ins
            again.
        plugins: Files of the user's own components, which have been loaded.
        quiet: Whether to show errors only.

    Raises:
        ConfigError: A file, or a value in it, is not valid; no trial was started.
        DataError: The data is missing or damaged; no trial was started.
        UsageError: Optuna is not installed, or the directory holds another sweep.
        RunError: No trial was completed, a process was killed, or the directory has a file that no
            sweep has; see `untrusted_files.verify`.
        InterruptedRunError: A signal interrupted the sweep, after a checkpoint.
    """
    plan = _plan(Path(config), Path(space), overrides)
    run_dir = None if run_dir is None else Path(run_dir)
    plugins = [Path(plugin) for plugin in plugins]
    if jobs == 1:
        with _search(plan, run_dir, Path(space), quiet) as search:
            _warn_of_changed_code(search, quiet)
            _work(search, plugins, quiet)
            return _outcome(search)
    with closing(_search(plan, run_dir, Path(space), quiet)) as search:
        _warn_of_changed_code(search, quiet)
        arguments = [
            "sweep",
            str(config),
            str(space),
            *overrides,
            "--run-dir",
            str(search.directory),
        ]
        arguments += [word for path in plugins for word in ("--plugin", str(path))]
        arguments += ["--worker", *(["--quiet"] if quiet else [])]
        try:
            run_workers(arguments, min(jobs, plan.trials))
        except (RunError, InterruptedRunError) as error:
            error.add_note("resume with the same command")
            raise
        return _outcome(search)


def work(
    config: Path,
    space: Path,
    overrides: Sequence[str],
    *,
    run_dir: Path,
    plugins: Sequence[Path],
    quiet: bool,
) -> None:
    """Train trials as one of several processes; see `sweep`."""
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
    """Validate the experiment and the recorded trials before a directory is created."""
    experiment = plan.experiment(plan.first_values)
    directory = directory or run_folder(experiment.name) / f"sweep-{space.stem}"
    verify_sweep(directory)
    # Without the metric: if it does not exist, the error is in the sweep's file.
    unmonitored = replace(experiment, checkpoint=replace(experiment.checkpoint, best=None))
    runtime = build_runtime(unmonitored)
    warn = (lambda _text: None) if quiet else print_warning
    data = build_data(unmonitored, runtime, warn)
    task = build_task(unmonitored, data.spec, runtime)
    validate_settings(unmonitored, data, task, runtime)
    metric, settings, samples = str(plan.metric), experiment.train, len(data.train)
    if (error := monitor_error(task, data, metric)) is not None:
        raise plan.no_such_metric(error)
    every = steps_in(settings.evaluate, settings.steps_per_epoch(samples))
    evaluations = math.ceil(settings.total_steps(samples) / every)
    return Search(directory, plan, monitorable_scalars(task, data)[metric], evaluations)


def _warn_of_changed_code(search: Search, quiet: bool) -> None:
    if not quiet:
        for change in _changed_code(search):
            print_warning(f"warning: {change}; results may differ")


def _changed_code(search: Search) -> list[str]:
    """Return how the user's own code differs from that of the trials, one line per difference."""
    trials: dict[str, list[int]] = {}
    for trial in search.trials():
        run = search.run_of(trial.number)
        if run.record_path.exists():
            for change in changed_code(run.experiment(), run.record()):
                trials.setdefault(change, []).append(trial.number)
    lines = []
    for change, numbers in trials.items():
        listed = ", ".join(map(str, numbers[:MOST_LISTED]))
        more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
        lines.append(f"trial{'s' if len(numbers) > 1 else ''} {listed}{more}: {change}")
    return lines


def _work(search: Search, plugins: Sequence[Path], quiet: bool) -> None:
    """Train one trial after another until none is left."""
    try:
        while (claimed := search.claim()) is not None:
            _train(search, claimed, plugins)
            trials = trial_infos(search)
            best = _write_best(search, trials)
            if not quiet:
                print_warning(_line(search, trials[claimed.number], best))
    except InterruptedRunError as error:
        error.__notes__ = ["resume with the same command"]
        raise


def _train(search: Search, claimed: ClaimedTrial, plugins: Sequence[Path]) -> None:
    try:
        summary = _summary(search, claimed, plugins)
    except InterruptedRunError:
        raise
    except DltrainError as error:  # other trials may succeed
        search.finish(claimed, "FAIL", error=str(error))
        return
    best = summary.best
    if summary.status == "pruned":
        search.finish(claimed, "PRUNED")
    elif summary.status == "failed" or best is None:
        message = summary.error or f"{search.plan.metric} was never finite"
        search.finish(claimed, "FAIL", error=message)
    else:
        search.finish(claimed, "COMPLETE", best["value"])


def _summary(search: Search, claimed: ClaimedTrial, plugins: Sequence[Path]) -> Summary:
    """Start or resume the trial's run, unless it has ended, and return its summary."""
    run = claimed.run
    ended = run.summary()
    if ended is not None and ended.status != "stopped":
        return ended
    if search.is_hopeless(claimed):
        raise RunError("its process was killed again and again, and never got further")
    experiment = search.plan.experiment(claimed.values)
    pruning = Pruning(claimed.trial, search.metric, experiment.train.evaluate)
    if run.checkpoints().all():
        return resume(run.directory, quiet=True, loggers=[pruning])
    if run.directory.exists():  # killed before anything was saved
        shutil.rmtree(run.directory)
    return train(experiment, run_dir=run.directory, quiet=True, plugins=plugins, loggers=[pruning])


def _line(search: Search, trial: TrialInfo, best: TrialInfo | None) -> str:
    """Return a line that describes how a trial ended."""
    value = "" if trial.value is None else f"  {search.metric} {trial.value:.5g}"
    values = "  ".join(f"{key}={format_sample(value)}" for key, value in trial.values.items())
    mark = "  (the best so far)" if trial == best else ""
    error = f"  {trial.error.splitlines()[0]}" if trial.error else ""
    return f"trial {trial.number:<3} {trial.state:7}{value}  {values}{mark}{error}"


def _write_best(search: Search, trials: Sequence[TrialInfo]) -> TrialInfo | None:
    """Write the config of the best trial to `best.yaml`; return the trial, if there is one."""
    best = next(iter(rank_trials(trials, search.higher_is_better)), None)
    if best is not None:
        comment = f"# Trial {best.number} of {search.directory}: {search.metric} {best.value:.6g}\n"
        config = search.run_of(best.number).config_text().encode()
        with lock_file(search.directory / "lock"):
            write_atomically(search.directory / BEST, comment.encode() + config)
    return best


def _outcome(search: Search) -> Outcome:
    """Write the page about all trials.

    Raises:
        RunError: No trial was completed.
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
        notices=_changed_code(search),
    )
    content = render_report(
        outcome, search.plan.dimensions, search.run_of(best.number).config_text()
    )
    write_atomically(Path(outcome.report), content.encode(errors="replace"))
    return outcome
