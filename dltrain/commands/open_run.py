"""A run in Python: its metrics as a table, and its model ready for predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dltrain.commands.predict import Prediction, Predictor
from dltrain.core.errors import UsageError
from dltrain.data.python_inputs import read_objects
from dltrain.loggers.jsonl import read_scalars
from dltrain.rundir.directory import Run as RunDirectory
from dltrain.rundir.summary import Summary

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Run:
    """A run, in progress or ended; see `Run.load`.

    Attributes:
        directory: Path of the run directory.
    """

    directory: Path

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Return the run in a directory.

        Raises:
            RunError: The directory holds no run.
        """
        return cls(RunDirectory.open(path).directory)

    @property
    def state(self) -> str:
        """`running`, `done`, `stopped`, `pruned`, `failed` or `killed`."""
        return self._run.state

    @property
    def summary(self) -> Summary | None:
        """The content of `summary.json`; None before the run has ended."""
        return self._run.summary()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config with all defaults; needs none of the components it names.

        Raises:
            RunError: It can't be read.
        """
        return self._run.config()

    @property
    def metrics(self) -> pandas.DataFrame:
        """All scalars so far: one row per step, one column for each SPLIT/NAME.

        A value is NaN if the scalar was not recorded at a step, or was not finite. `.dropna()` on
        one column gives its curve: `run.metrics["val/loss"].dropna().plot()`.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            message = "metrics come as a table of pandas: pip install 'dltrain[notebook]'"
            raise UsageError(message) from error
        scalars = read_scalars(self._run.metrics_path)
        columns = {
            name: pandas.Series(dict(points), dtype="float64") for name, points in scalars.items()
        }
        table = pandas.DataFrame(columns)
        table.index.name = "step"
        return table.sort_index()

    def model(self, *, checkpoint: str | None = None, device: str | None = None) -> Model:
        """Load the trained model, once for any number of predictions.

        Args:
            checkpoint: `best`, `latest`, or the name of one of the run's checkpoints (default: the
                best where one is marked, else the latest).
            device: Device to use instead of the config's.

        Raises:
            RunError: There is no such checkpoint.
            UsageError: The run's task gives no predictions.
        """
        return Model(Predictor(self.directory, checkpoint=checkpoint, device=device))

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.directory)


class Model:
    """A trained model that predicts Python objects; see `Run.model`.

    Attributes:
        predictor: The predictor for files; `predictor.trained.task.model` is the module.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @overload
    def __call__(self, inputs: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def __call__(self, inputs: Any) -> Any: ...

    def __call__(self, inputs: Any) -> Prediction | list[Prediction]:
        """Predict one input, or each input of a list or row of a DataFrame.

        Args:
            inputs: One input or a list. For a model of images, each is a path, a Pillow image, or
                a uint8 array, (height, width) or (height, width, channels); an array of four
                dimensions is a list of images. For a model of texts, each is a str. For a model of
                tables, each is a mapping with a value for every column of the training data.

        Raises:
            DataError: An input does not fit what the model was trained on.
        """
        if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):
            inputs = inputs.to_dict("records")  # a DataFrame; pandas need not be imported for it
        elif getattr(inputs, "ndim", 0) == 4:
            inputs = list(inputs)
        several = isinstance(inputs, Sequence) and not isinstance(inputs, str)
        given = inputs if several else [inputs]
        if not given:
            return []
        predictions = self.predictor.of_tensor(*read_objects(self.predictor.spec, given))
        return predictions if several else predictions[0]
