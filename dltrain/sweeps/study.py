"""The study that processes share: which trial is next, whose process has died, what came out."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from dltrain.checkpoints.atomic_files import make_directory, open_regular, regular
from dltrain.checkpoints.untrusted_files import DirectoryLayout, verify
from dltrain.checkpoints.untrusted_json import GIB, KIB, MIB, Count, validated
from dltrain.core.errors import DltrainError, RunError, UsageError, shorten
from dltrain.data.seeding import key
from dltrain.rundir.directory import Run
from dltrain.sweeps.algorithms import Draw, settled
from dltrain.sweeps.plan import Plan
from dltrain.sweeps.search_space import Value, draw

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

MOST_DEATHS = 3
"""A trial whose process died so often, and never got further, is given up."""

FEWEST_COMPARED = 10
"""Of fewer trials, what seems important is chance."""


WORKER = "[0-9a-f]{32}"
"""Pattern of the name of a process that works on a sweep."""

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
    """Refuses what no sweep has in its directory or in its trials; see `run_files.verify`."""
    verify(directory, LAYOUT)
    for trial in sorted((directory / "trials").glob("[0-9]*")):
        Run(trial).verify()


class _TrialAttributes(TypedDict):
    worker: NotRequired[Annotated[str, Field(pattern=f"^{WORKER}$")]]
    progress: NotRequired[list[Count]]
    error: NotRequired[str | None]


class _Trial(TypedDict):
    """What is used of a trial that a study tells of."""

    number: Count
    value: float | None
    params: dict[str, float | str]
    intermediate_values: dict[int, float]
    user_attrs: _TrialAttributes


@dataclass(frozen=True)
class Taken:
    """A trial that this process is to train.

    Attributes:
        number: From 0.
        values: By key of the config.
        run: Its run directory, which holds what an earlier process has done of it.
        trial: Optuna's.
    """

    number: int
    values: dict[str, Value]
    run: Run
    trial: Trial


class Search:
    """A sweep's directory, and the study in it.

    The directory has been verified. Several processes, on several machines where the
    file system has locks, each have one. A lock on `workers/ID` says that a process lives; another
    on `lock` is held while a trial is taken, so that no two are taken at once, and none is left
    half taken but by a dead process.

    Args:
        directory: Made, with a new study, where it is not there.
        plan: What is to be done.
        higher_is_better: Of the metric.
        evaluations: How often a trial is evaluated, about.

    Raises:
        UsageError: The directory holds another sweep.
        RunError: It holds a damaged study, or can't be made.
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
            message = f"{directory}: can't make the directory of the sweep: {error.strerror}"
            raise RunError(message) from error
        with held(directory / "lock"), self._damage_told():
            self._storage = _storage(directory, plan)
            with settled():
                self._pruner = plan.pruner.build(evaluations)
                # A sampler that is told of ends stops a loop of Optuna's own; there is none here.
                self.study: optuna.Study = optuna.create_study(
                    storage=self._storage,
                    study_name="sweep",
                    direction="maximize" if higher_is_better else "minimize",
                    load_if_exists=True,
                    sampler=optuna.samplers.RandomSampler(),
                    pruner=self._pruner,
                )
            try:
                self._refuse_another()
                self.trials()
            except DltrainError:
                self.close()
                raise

    @property
    def metric(self) -> str:
        """What is to be good."""
        assert self.plan.metric is not None  # read_plan sees to it
        return self.plan.metric

    def _refuse_another(self) -> None:
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
                f"{self.directory} holds a sweep of another config, metric or space "
                f"({change.strip()}); choose another --run-dir"
            )

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """A study from elsewhere leads Optuna and SQLAlchemy to all kinds of errors."""
        try:
            yield
        except DltrainError:
            raise
        except Exception as error:
            told = shorten(" ".join(f"{type(error).__name__}: {error}".split()), 200)
            raise RunError(f"{self.directory}: its study can't be used: {told}") from error

    def __enter__(self) -> Search:
        """This process takes part."""
        path = self.directory / "workers" / self._id
        with held(self.directory / "lock"):  # a file without a lock on it is taken for a dead one's
            self._stack.callback(path.unlink, missing_ok=True)
            self._stack.enter_context(held(path))
        return self

    def __exit__(self, *_error: object) -> None:
        """What it has taken and not told is free for others; files of dead processes go too."""
        self.close()
        with held(self.directory / "lock"):
            self._stack.close()
            for path in (self.directory / "workers").iterdir():
                if re.fullmatch(WORKER, path.name) and not is_held(path):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the study's file; it is opened anew where it is asked again."""
        from optuna.storages import RDBStorage

        if isinstance(self._storage, RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        """All of them, by number.

        Raises:
            RunError: The study does not hold what it should.
        """
        found = self.study.get_trials(deepcopy=False)
        for number, trial in enumerate(found):
            told = {name: getattr(trial, name) for name in _Trial.__annotations__}
            try:
                validated(told, _Trial)
                if trial.number != number:
                    raise ValueError(f"its number is {trial.number}")
                if trial.state.name == "COMPLETE" and trial.value is None:
                    raise ValueError("it is complete, and has no value")
            except ValueError as error:
                message = f"{self.directory}: its study is damaged: trial {number}: {error}"
                raise RunError(message) from error
        return found

    def run_of(self, number: int) -> Run:
        """Where a trial is trained."""
        return Run(self.directory / "trials" / f"{number:04d}")

    def take(self) -> Taken | None:
        """The next trial: one whose process has died, or a new one; None where none is left."""
        with held(self.directory / "lock"), self._damage_told():
            trials = self.trials()
            for trial in trials:
                if trial.state.name == "RUNNING" and not self._lives(trial):
                    return self._begin(trial.number, trial._trial_id)
            if len(trials) >= self.plan.trials:
                return None
            return self._begin(len(trials), None)

    def _begin(self, number: int, trial_id: int | None) -> Taken:
        """Gives a trial to this process, with values that stay."""
        import optuna

        run = self.run_of(number)
        with settled():
            seed = key(self.plan.seed, len(self.trials())) % 2**32
            sampler = self.plan.sampler.build(Draw(seed, self.plan.seed, self.plan.grid))
            study = optuna.load_study(
                study_name="sweep", storage=self._storage, sampler=sampler, pruner=self._pruner
            )
            trial = study.ask() if trial_id is None else optuna.trial.Trial(study, trial_id)
            trial.set_user_attr("worker", self._id)
            values = draw(self.plan.dimensions, trial)
        progress = [*trial.user_attrs.get("progress", ()), len(run.checkpoints().all())]
        trial.set_user_attr("progress", progress)
        return Taken(trial.number, values, run, trial)

    def given_up(self, taken: Taken) -> bool:
        """Whether its processes died again and again, and none got further than the first."""
        progress: Sequence[int] = taken.trial.user_attrs["progress"]
        return len(progress) > MOST_DEATHS and len(set(progress[-MOST_DEATHS - 1 :])) == 1

    def _lives(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return False
        return worker == self._id or is_held(self.directory / "workers" / worker)

    def finish(self, taken: Taken, state: str, value: float | None = None, **told: Any) -> None:
        """Says how a trial ended.

        Args:
            taken: Which.
            state: `COMPLETE`, `PRUNED` or `FAIL`.
            value: Of the metric, where it is complete.
            **told: What else is known of it; JSON-able.
        """
        from optuna.trial import TrialState

        for name, what in told.items():
            taken.trial.set_user_attr(name, what)
        with settled():
            self.study.tell(taken.number, value, TrialState[state])

    def importance(self) -> dict[str, float]:
        """How much of the difference between good and other trials each key explains, in all 1.

        By PED-ANOVA; empty where fewer than ten trials came to their end.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if sum(trial.state.name == "COMPLETE" for trial in self.trials()) < FEWEST_COMPARED:
            return {}
        with settled():
            found = get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(share) for name, share in found.items()}


def _storage(directory: Path, plan: Plan) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    with settled():
        if plan.storage == "journal":
            lock: Any = _Lock(directory / "study.lock")
            return JournalStorage(JournalFileBackend(str(directory / "study.journal"), lock))
        return RDBStorage(
            f"sqlite:///{directory / 'study.db'}",
            engine_kwargs={"connect_args": {"timeout": 60}},  # seconds that it waits for a lock
        )


class _Lock:
    """Optuna's `BaseJournalFileLock`, which a dead process does not hold; its own makes links."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()

    def acquire(self) -> bool:
        self._stack.enter_context(held(self._path))
        return True

    def release(self) -> None:
        self._stack.close()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Waits for a lock, and holds it; a dead process holds none."""
    with open(path, "a", opener=regular) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a living process has the lock; not to be asked of one's own, which it would free."""
    with suppress(FileNotFoundError):
        descriptor = open_regular(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
    return False
