"""The Optuna study that processes share: claim the next trial, detect dead processes, finish."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import make_directory
from dltrain.checkpoints.untrusted_files import DirectoryLayout, verify
from dltrain.checkpoints.untrusted_json import GIB, KIB, MIB, Count, validated
from dltrain.core.errors import DltrainError, RunError, UsageError, shorten
from dltrain.data.seeding import derive_seed
from dltrain.rundir.directory import Run
from dltrain.sweeps.algorithms import SamplerContext, no_experimental_warnings
from dltrain.sweeps.locks import JournalLock, is_locked, lock_file
from dltrain.sweeps.plan import Plan
from dltrain.sweeps.search_space import Value, sample

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

MAX_DEATHS = 3
"""A trial fails after its process has died this many times without progress."""

MIN_TRIALS_FOR_IMPORTANCE = 10
"""With fewer completed trials, importance is not significant."""


WORKER = "[0-9a-f]{32}"
"""Pattern of the ID of a process that works on a sweep."""

LAYOUT = DirectoryLayout(
    {
        r"lock|study\.lock": 4 * KIB,
        rf"workers/{WORKER}": 4 * KIB,
        r"study\.db(-journal|-wal|-shm)?": GIB,
        r"study\.journal": 64 * MIB,  # Optuna keeps it in memory
        r"best\.yaml": MIB,
        r"report\.html": GIB,
    },
    ["workers", "trials"],
    closed=["trials/[0-9]{4,}"],  # runs
)
"""The directory of a sweep."""


def verify_sweep(directory: Path) -> None:
    """Refuse unexpected kinds of files in a sweep's directory; see `untrusted_files.verify`."""
    verify(directory, LAYOUT)
    for trial in sorted((directory / "trials").glob("[0-9]*")):
        Run(trial).verify()


class _TrialAttributes(TypedDict):
    worker: NotRequired[Annotated[str, Field(pattern=f"^{WORKER}$")]]
    progress: NotRequired[list[Count]]
    error: NotRequired[str | None]


class _Trial(TypedDict):
    """The fields of a study's trial that are used."""

    number: Count
    value: float | None
    params: dict[str, float | str]
    intermediate_values: dict[int, float]
    user_attrs: _TrialAttributes


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that this process trains.

    Attributes:
        number: Number of the trial, from 0.
        values: Values by key of the config.
        run: Run directory, with the progress of an earlier process.
        trial: Optuna's trial.
    """

    number: int
    values: dict[str, Value]
    run: Run
    trial: Trial


class Search:
    """A sweep's directory, and the study in it.

    Several processes can have a `Search` of the same directory, also on several machines if the
    file system supports locks. A process holds a lock on `workers/ID` while it lives. It holds a
    lock on `lock` while it claims a trial, so that claims are atomic unless the process dies.

    Args:
        directory: Verified directory, created with a new study if it does not exist.
        plan: Sweep to run.
        higher_is_better: Whether the metric is maximized.
        evaluations: Approximate number of evaluations of a trial.

    Raises:
        UsageError: The directory contains another sweep.
        RunError: The directory contains a damaged study or can't be created.
    """

    def __init__(
        self, directory: Path, plan: Plan, higher_is_better: bool, evaluations: int
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.directory = directory
        self.plan = plan
        self.higher_is_better = higher_is_better
        self._stack, self._id = ExitStack(), uuid.uuid4().hex
        try:
            make_directory(directory / "workers")
        except OSError as error:
            message = f"{directory}: can't create the directory of the sweep: {error.strerror}"
            raise RunError(message) from error
        with lock_file(directory / "lock"), self._damage_reported():
            self._storage = _storage(directory, plan)
            with no_experimental_warnings():
                self._pruner = plan.pruner.build(evaluations)
                # This sampler is unused: each claim loads the study with its own sampler.
                self.study: optuna.Study = optuna.create_study(
                    storage=self._storage,
                    study_name="sweep",
                    direction="maximize" if higher_is_better else "minimize",
                    load_if_exists=True,
                    sampler=optuna.samplers.RandomSampler(),
                    pruner=self._pruner,
                )
            try:
                self._require_same_sweep()
                self.trials()
            except DltrainError:
                self.close()
                raise

    @property
    def metric(self) -> str:
        """Return the scalar to optimize."""
        assert self.plan.metric is not None  # set by read_plan
        return self.plan.metric

    def _require_same_sweep(self) -> None:
        identity = self.plan.identity()
        before = self.study.user_attrs.get("identity")
        if before is None:
            self.study.set_user_attr("identity", identity)
        elif before != identity:
            old, new = before.splitlines(), identity.splitlines()
            change = next((line for line in new if line not in old), None) or next(
                line for line in old if line not in new
            )
            raise UsageError(
                f"{self.directory} contains a sweep of another config, metric or space "
                f"({change.strip()}); choose another --run-dir"
            )

    @contextmanager
    def _damage_reported(self) -> Iterator[None]:
        """Convert any exception to a RunError: a damaged study can raise them all."""
        try:
            yield
        except DltrainError:
            raise
        except Exception as error:
            reason = shorten(" ".join(f"{type(error).__name__}: {error}".split()), 200)
            raise RunError(f"{self.directory}: can't use the study: {reason}") from error

    def __enter__(self) -> Search:
        """Register this process as a worker."""
        path = self.directory / "workers" / self._id
        with lock_file(self.directory / "lock"):  # an unlocked file counts as a dead worker
            self._stack.callback(path.unlink, missing_ok=True)
            self._stack.enter_context(lock_file(path))
        return self

    def __exit__(self, *_error: object) -> None:
        """Release an unfinished trial to other workers, and remove files of dead workers."""
        self.close()
        with lock_file(self.directory / "lock"):
            self._stack.close()
            for path in (self.directory / "workers").iterdir():
                if re.fullmatch(WORKER, path.name) and not is_locked(path):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the study's file, which is reopened on the next access."""
        from optuna.storages import RDBStorage

        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, by number.

        Raises:
            RunError: The study is damaged.
        """
        found = self.study.get_trials(deepcopy=False)
        for number, trial in enumerate(found):
            fields = {name: getattr(trial, name) for name in _Trial.__annotations__}
            try:
                validated(fields, _Trial)
                if trial.number != number:
                    raise ValueError(f"expected number {number}, got {trial.number}")
                if trial.state.name == "COMPLETE" and trial.value is None:
                    raise ValueError("complete without a value")
            except ValueError as error:
                message = f"{self.directory}: the study is damaged: trial {number}: {error}"
                raise RunError(message) from error
        return found

    def run_of(self, number: int) -> Run:
        """Return the run directory of a trial."""
        return Run(self.directory / "trials" / f"{number:04d}")

    def claim(self) -> ClaimedTrial | None:
        """Claim a trial whose process has died, else a new one; return None if none is left."""
        with lock_file(self.directory / "lock"), self._damage_reported():
            trials = self.trials()
            for trial in trials:
                if trial.state.name == "RUNNING" and not self._is_alive(trial):
                    return self._claim(trial.number, trial._trial_id)
            if len(trials) >= self.plan.trials:
                return None
            return self._claim(len(trials), None)

    def _claim(self, number: int, trial_id: int | None) -> ClaimedTrial:
        """Assign a trial to this process, and sample its values if it is new."""
        import optuna

        run = self.run_of(number)
        with no_experimental_warnings():
            seed = derive_seed(self.plan.seed, len(self.trials())) % 2**32
            sampler = self.plan.sampler.build(SamplerContext(seed, self.plan.seed, self.plan.grid))
            study = optuna.load_study(
                study_name="sweep", storage=self._storage, sampler=sampler, pruner=self._pruner
            )
            trial = study.ask() if trial_id is None else optuna.trial.Trial(study, trial_id)
            trial.set_user_attr("worker", self._id)
            values = sample(self.plan.dimensions, trial)
        progress = [*trial.user_attrs.get("progress", ()), len(run.checkpoints().all())]
        trial.set_user_attr("progress", progress)
        return ClaimedTrial(trial.number, values, run, trial)

    def is_hopeless(self, claimed: ClaimedTrial) -> bool:
        """Return whether the trial's processes have died `MAX_DEATHS` times without progress."""
        progress: Sequence[int] = claimed.trial.user_attrs["progress"]
        return len(progress) > MAX_DEATHS and len(set(progress[-MAX_DEATHS - 1 :])) == 1

    def _is_alive(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return False
        return worker == self._id or is_locked(self.directory / "workers" / worker)

    def finish(
        self, claimed: ClaimedTrial, state: str, value: float | None = None, **attributes: Any
    ) -> None:
        """Record how a trial ended.

        Args:
            claimed: Trial that ended.
            state: `COMPLETE`, `PRUNED` or `FAIL`.
            value: Value of the metric, for a complete trial.
            **attributes: Further JSON-compatible attributes to store.
        """
        from optuna.trial import TrialState

        for name, attribute in attributes.items():
            claimed.trial.set_user_attr(name, attribute)
        with no_experimental_warnings():
            self.study.tell(claimed.number, value, TrialState[state])

    def importance(self) -> dict[str, float]:
        """Return the importance of each key by PED-ANOVA; the values sum to 1.

        Empty with fewer than `MIN_TRIALS_FOR_IMPORTANCE` completed trials.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if (
            sum(trial.state.name == "COMPLETE" for trial in self.trials())
            < MIN_TRIALS_FOR_IMPORTANCE
        ):
            return {}
        with no_experimental_warnings():
            found = get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(fraction) for name, fraction in found.items()}


def _storage(directory: Path, plan: Plan) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    with no_experimental_warnings():
        if plan.storage == "journal":
            lock: Any = JournalLock(directory / "study.lock")
            return JournalStorage(JournalFileBackend(str(directory / "study.journal"), lock))
        return RDBStorage(
            f"sqlite:///{directory / 'study.db'}",
            engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait for a lock
        )
