"""Train, and go on training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from dltrain.build import (
    Machine,
    build_data,
    build_machine,
    build_task,
    build_trainer,
    changed_code,
    code_now,
    loaded_plugins,
    misfit,
    refuse_lone_samples,
)
from dltrain.checkpoints.atomic_files import regular, sync
from dltrain.checkpoints.store import (
    Checkpoints,
    DamagedCheckpointError,
    Snapshot,
    num_bytes,
    read_by_main,
    weights_sha256,
)
from dltrain.commands.guards import (
    collector_spared,
    disk_errors,
    in_words,
    signals,
    start_again,
)
from dltrain.config import (
    HARMLESS,
    LENGTH,
    PLACE,
    ROUNDING,
    Experiment,
    refuse_changes,
    user_code,
    values_of,
)
from dltrain.config import changes as changed
from dltrain.core.batch import Batch
from dltrain.core.errors import PrunedError, RunError, StoppedError, tell, visible
from dltrain.core.paths import data_folder
from dltrain.core.protocols import Data, World
from dltrain.distributed.fsdp import on_main
from dltrain.distributed.process_group import joined, launch, restarts
from dltrain.loggers import MetricsFile, Progress, Recorder, TensorBoard
from dltrain.reporting.notebook import NotebookProgress, in_kernel
from dltrain.rundir import input_files
from dltrain.rundir.directory import Run, Status, Summary
from dltrain.rundir.provenance import (
    Record,
    data_record,
    device_record,
    differences,
    facts_of_rank,
    fingerprint,
    plugin_paths,
    unlike_ranks,
)
from dltrain.training.device import global_settings_restored, peak_memory_bytes
from dltrain.training.trainer import Trainer


def train(
    experiment: Experiment,
    *,
    run_dir: str | Path | None = None,
    quiet: bool = False,
    plugins: Sequence[str | Path] = (),
    recorders: Sequence[Recorder] = (),
) -> Summary:
    """Trains an experiment in a new run directory.

    In a notebook it shows its progress and curves below the cell, on a terminal a bar and lines.

    Of several processes that torchrun started, each calls this, and the first writes. Where they
    were started again, they go on with the run that they had begun.

    Args:
        experiment: What `dltrain.load` gave.
        run_dir: Where; the next free number under `runs/NAME/` if not given.
        quiet: Whether to show nothing but errors.
        plugins: Files of the user's own components, for the record.
        recorders: Who hears of it beside the run's own, in the first process. One that raises
            PrunedError ends the run, whose status then is `pruned`.

    Raises:
        ConfigError: Something in the config can't work; no run directory was made.
        DataError: The data is missing or damaged; no run directory was made.
        RunError: The run failed; `summary.json` says so too.
        StoppedError: A signal stopped it, after a checkpoint.
    """
    run_dir = None if run_dir is None else Path(run_dir)
    plugins = [Path(plugin) for plugin in plugins]
    return train_if(lambda _machine, _data: None, experiment, run_dir, quiet, plugins, recorders)


def train_if(
    accept: Callable[[Machine, Data], None],
    experiment: Experiment,
    run_dir: Path | None,
    quiet: bool,
    plugins: Sequence[Path],
    recorders: Sequence[Recorder] = (),
    folder: str | None = None,
) -> Summary:
    """See `train`; `accept` may refuse, by an error, what has been found, before anything else.

    `folder` is the data folder that another run has recorded.
    """
    with global_settings_restored(), joined(experiment.train.timeout) as world:
        _require_alike_ranks(experiment, world)
        again = world.largest(restarts()) > 0
        begun = world.from_main(lambda: Run.begun_by(launch(), again, experiment.name, run_dir))
        if begun is not None and world.from_main(lambda: bool(begun.checkpoints().all())):
            return _resume(begun, experiment, world, quiet=quiet, recorders=recorders)
        notices: list[str] = []
        started = time.perf_counter()
        machine = build_machine(experiment, world)
        data = _data(experiment, machine, notices, quiet, folder)
        accept(machine, data)
        has_data = time.perf_counter()
        task = build_task(experiment, data.spec, machine)
        # What a trainer refuses, it refuses before there is a directory.
        refused = build_trainer(experiment, data, task, machine, Run(Path()).checkpoints())
        refuse_lone_samples(experiment, refused)
        run = begun or world.from_main(lambda: Run.create(experiment, run_dir))
        with disk_errors(run), ExitStack() as stack:
            stack.enter_context(run.locked() if world.main else nullcontext())
            if begun is not None and world.main:
                run.start_over()
                run.write_config(experiment)
            described = data_record(experiment.data.name, data, notices)
            record = Record(
                config=experiment.to_dict(),
                code=[code_now(experiment, plugins)],
                data=described,
                device=device_of(machine),
                plugins=[str(path) for path in plugins],
                data_folder=str(data_folder(folder)),
                timings={
                    "data_seconds": has_data - started,
                    "build_seconds": time.perf_counter() - has_data,
                },
            )
            if world.main:
                run.write_record(record)
            own = _recorders(stack, run, experiment, data, quiet, notices, machine)
            everyone = [*own, *(recorders if world.main else ())]
            _tell(own, f"run directory: {run.directory}")
            checkpoints = run.checkpoints(experiment.checkpoint.keep)
            trainer = build_trainer(experiment, data, task, machine, checkpoints, everyone)
            return _train_to_the_end(trainer, run, machine, described)


def resume(
    run_dir: str | Path,
    *,
    quiet: bool = False,
    exact: bool = False,
    recorders: Sequence[Recorder] = (),
) -> Summary:
    """Goes on from the newest good checkpoint of a run, bit for bit.

    Args:
        run_dir: The run.
        quiet: Whether to show nothing but errors.
        exact: Refuse to go on where versions, device or threads differ from those that the run
            started with, so that its bits might; else a line says so.
        recorders: See `train`.

    Raises:
        RunError: There is nothing to go on from, or the run failed again.
        StoppedError: A signal stopped it, after a checkpoint.
    """
    run = Run.open(run_dir)
    experiment = run.experiment()
    with global_settings_restored(), joined(experiment.train.timeout) as world:
        _require_alike_ranks(experiment, world)
        return _resume(run, experiment, world, quiet=quiet, exact=exact, recorders=recorders)


def _resume(
    run: Run,
    experiment: Experiment,
    world: World,
    *,
    quiet: bool,
    exact: bool = False,
    recorders: Sequence[Recorder] = (),
) -> Summary:
    with disk_errors(run), ExitStack() as stack:
        stack.enter_context(run.locked() if world.main else nullcontext())
        ended = world.from_main(run.summary)
        if ended is not None and ended.status == "done":
            record = world.from_main(run.record)
            refuse_another_config(experiment, record)
            other_code = changed_code(experiment, record)
            _refuse_inexact(other_code if exact else [])
            for change in other_code:
                _say(f"warning: {change}; results may differ", [], quiet or not world.main)
            return ended
        checkpoints = run.checkpoints(experiment.checkpoint.keep)
        if not world.from_main(checkpoints.all):
            _newest(run, checkpoints, world)  # says so before the data is looked for
        record = world.from_main(run.record)
        refuse_another_config(experiment, record, (*ROUNDING, *LENGTH))
        notices: list[str] = []
        machine = build_machine(experiment, world)
        data = _data(experiment, machine, notices, quiet, record["data_folder"])
        described = data_record(experiment.data.name, data, notices)
        refuse_other_data(run, record["data"], described)
        edits = changed(record["config"], experiment.to_dict())
        changes = differences(record, device_of(machine))
        changes += [str(edit) for edit in edits if edit.key not in LENGTH]
        other_code = changed_code(experiment, record)
        _refuse_inexact([*other_code, *changes] if exact else [])
        task = build_task(experiment, data.spec, machine)
        size = num_bytes(task.model.state_dict())
        path, snapshot, passed_over = _newest(run, checkpoints, world, size)
        own = _recorders(stack, run, experiment, data, quiet, notices, machine)
        everyone = [*own, *(recorders if world.main else ())]
        trainer = build_trainer(experiment, data, task, machine, checkpoints, everyone)
        try:
            trainer.restore(snapshot)
            if world.main and path.name != f"step-{trainer.state.step:010d}":
                raise ValueError(f"its state is of step {trainer.state.step}")
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(misfit(path, run, error)) from error
        for change in other_code:
            _tell(own, f"warning: {change}; results may differ")
        for change in changes:
            _tell(own, f"note: {change}; results may differ in their last bits")
        for edit in edits:
            if edit.key in LENGTH:
                _tell(own, f"note: {edit}")
        for text in (*passed_over, f"going on from {path}"):
            _tell(own, text)
        if world.main:
            if other_code:
                run.add_code(record, code_now(experiment, loaded_plugins(record)))
            run.begin_again()
        return _train_to_the_end(trainer, run, machine, described)


def _newest(
    run: Run, checkpoints: Checkpoints, world: World, model_bytes: int | None = None
) -> tuple[Path, Snapshot, list[str]]:
    """See `Checkpoints.newest`; of several processes, the first reads."""
    path, passed_over = Path(), []

    def newest() -> Snapshot:
        nonlocal path, passed_over
        try:
            path, snapshot, passed_over = checkpoints.newest(model_bytes)
        except DamagedCheckpointError as error:
            error.add_note(start_again(run))
            raise
        return snapshot

    snapshot = read_by_main(world, newest)
    return path, snapshot, passed_over


def _refuse_inexact(changes: Sequence[str]) -> None:
    if changes:
        raise RunError(f"can't go on bit for bit: {'; '.join(changes)}")


def _data(
    experiment: Experiment,
    machine: Machine,
    notices: list[str],
    quiet: bool,
    folder: str | None,
) -> Data:
    """The data; of several processes on a machine, the first may have to download it."""

    def say(text: str) -> None:
        _say(text, notices, quiet or not machine.world.main)

    with machine.world.first_on_machine():
        data = build_data(experiment, machine, say, folder)
    _refuse_unlike(machine.world, {"the data's fingerprint": fingerprint(data)[:12]})
    return data


def _require_alike_ranks(experiment: Experiment, world: World) -> None:
    """Raises a RunError in every rank where their configs, packages or plug-ins differ."""
    if world.size > 1:
        config = values_of(experiment.to_dict(), PLACE)
        code = code_now(experiment, user_code.loaded_plugins())
        _refuse_unlike(world, facts_of_rank(config, code))


def _refuse_unlike(world: World, facts: dict[str, str]) -> None:
    """Raises a RunError in every rank, where what must be the same in all of them is not."""
    if lines := unlike_ranks(world.collect(facts)):
        more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise RunError(f"the ranks do not train the same: {'; '.join(lines[:5])}{more}")


def device_of(machine: Machine) -> dict[str, Any]:
    """See `device_record`."""
    return device_record(machine.device, machine.numerics.name, machine.world.size)


def refuse_another_config(
    experiment: Experiment, record: Mapping[str, Any], but: Sequence[str] = ()
) -> None:
    """Raises a ConfigError where the config is not the one that the run was started with.

    Args:
        experiment: The config now.
        record: See `Run.record`.
        but: Keys that may change, beside those that change no outcome.
    """
    way_on = "change it back, or train the changed config as a new run"
    refuse_changes(experiment, record["config"], (*HARMLESS, *but), way_on)


def refuse_other_data(run: Run, before: dict[str, Any], described: dict[str, Any]) -> None:
    """Raises a RunError where the data has another fingerprint than it had."""
    if before["fingerprint"] != described["fingerprint"]:
        raise RunError(
            f"the data is not what {run.directory} was trained on: it came from "
            f"{before['source']}, and now from {described['source']}"
        )


def _recorders(
    stack: ExitStack,
    run: Run,
    experiment: Experiment,
    data: Data,
    quiet: bool,
    notices: Sequence[str],
    machine: Machine,
) -> list[Recorder]:
    if not machine.world.main:
        return []
    # A path may have bytes that are no text here; they are written as they are.
    log = stack.enter_context(
        open(run.log_path, "a", encoding="utf-8", errors="surrogateescape", opener=regular)  # noqa: SIM115
    )
    for text in notices:  # the terminal has shown them already
        print(visible(text), file=log)

    def example() -> Batch:
        if machine.shards:
            raise RuntimeError("each process has a part of its weights")
        return next(data.train.batches(1))

    shown = NotebookProgress(log) if in_kernel() and not quiet else Progress(log, quiet)
    recorders: list[Recorder] = [shown, MetricsFile(run.metrics_path)]
    if experiment.recording.tensorboard:
        recorders.append(
            TensorBoard(
                run.tensorboard_path,
                experiment.to_yaml(),
                _hyperparameters(experiment),
                example,
                experiment.recording.histograms,
            )
        )
    for recorder in recorders:
        stack.callback(recorder.close)
    sync(run.directory)  # what a checkpoint counts on is there after a power cut
    return recorders


def _tell(recorders: Sequence[Recorder], text: str) -> None:
    for recorder in recorders[:1]:
        recorder.line(text)


def _train_to_the_end(
    trainer: Trainer, run: Run, machine: Machine, described: dict[str, Any]
) -> Summary:
    def summary(status: Status, error: str | None = None) -> Summary:
        state, seconds = trainer.state, trainer.seconds
        # A process that failed can't ask the others for their parts.
        model = {} if machine.shards and status == "failed" else trainer.task.model.state_dict()
        best = state.best and {
            "metric": trainer.monitor,
            "value": state.best[0],
            "step": state.best[1],
        }
        result = Summary(
            run=str(run.directory),
            status=status,
            step=state.step,
            epoch=state.step / trainer.steps_per_epoch,
            seconds=seconds,
            samples_per_second=trainer.samples_after(state.step) / seconds,
            peak_memory_bytes=peak_memory_bytes(machine.device),
            metrics=state.last,
            best=best,
            best_metrics=state.best_metrics,
            tested_weights=trainer.tested_weights,
            skipped_steps=state.skipped,
            stopped_early=trainer.stopped_early,
            data=described,
            weights_sha256=weights_sha256(on_main(model, machine.world.main)),
            error=error,
        )
        if machine.world.main:
            run.write_summary(result)
        for recorder in trainer.recorders:
            recorder.ended(status)
        return result

    # A second signal ends the process at once, also while it writes how the first one ended it.
    with signals(trainer):
        try:
            with collector_spared(), _inputs_recorded(trainer, run, machine):
                trainer.fit()
        except StoppedError as error:
            summary("stopped")
            error.add_note(f"go on with: dltrain resume {run.directory}")
            raise
        except PrunedError:
            return summary("pruned")
        except Exception as error:  # a model may raise anything, and so may a disk
            failure = machine.world.failure(in_words(error, trainer, machine))
            with suppress(OSError):
                summary("failed", str(failure))
            if failure is error:
                raise
            raise failure from error
        return summary("done")


def _inputs_recorded(trainer: Trainer, run: Run, machine: Machine) -> AbstractContextManager[None]:
    """See `input_files.recorded`; of several processes, the first writes."""
    if not machine.world.main:
        return nullcontext()
    start, plugins = trainer.state.step, plugin_paths(run.record())
    files = trainer.data.files
    return input_files.recorded(run.directory, files, plugins, lambda: trainer.state.step > start)


def _say(text: str, notices: list[str], quiet: bool) -> None:
    notices.append(text)
    if not quiet:
        with suppress(OSError):  # the reader has closed the stream; the log will have it
            tell(text)


def _hyperparameters(experiment: Experiment) -> dict[str, bool | int | float | str]:
    """Return the options that may change results, by dotted key; a list is one value."""
    options = values_of(experiment.to_dict(), ("name", "checkpoint", "recording", "metrics"))
    return {
        key: value
        if isinstance(value, bool | int | float | str)
        else json.dumps(value, ensure_ascii=False, default=str)
        for key, value in options.items()
        if value != {}
    }
