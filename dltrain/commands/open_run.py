"""A run from Python: its figures as a table, and its model ready to be asked."""

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
    """A run, begun or ended; `Run.load` gives one.

    Attributes:
        directory: Its place.
    """

    directory: Path

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """The run in a directory.

        Raises:
            RunError: It holds no run.
        """
        return cls(RunDirectory.open(path).directory)

    @property
    def state(self) -> str:
        """`running`, `done`, `stopped`, `pruned`, `failed` or `killed`."""
        return self._run.state

    @property
    def summary(self) -> Summary | None:
        """How it ended; None while it has not."""
        return self._run.summary()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, nothing left to default; needs none of the components it names.

        Raises:
            RunError: It can't be read.
        """
        return self._run.config()

    @property
    def metrics(self) -> pandas.DataFrame:
        """Every scalar so far: a row a step, a column for each SPLIT/NAME.

        NaN where a scalar was not recorded at a step, or was not finite. `.dropna()` on one column
        gives its curve: `run.metrics["val/loss"].dropna().plot()`.

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
        """The trained model, loaded once and asked as often as one likes.

        Args:
            checkpoint: `best`, `latest`, or the name of one of the run's checkpoints; by default
                the best where one is marked, else the latest.
            device: Instead of the config's.

        Raises:
            RunError: There is no such checkpoint.
            UsageError: The run's task gives no predictions.
        """
        return Model(Predictor(self.directory, checkpoint=checkpoint, device=device))

    @property
    def _run(self) -> RunDirectory:
        return RunDirectory(self.directory)


class Model:
    """Gives predictions for objects; see `Run.model`.

    Attributes:
        predictor: The model for files, and what it is made of: `predictor.trained.task.model`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @overload
    def __call__(self, inputs: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def __call__(self, inputs: Any) -> Any: ...

    def __call__(self, inputs: Any) -> Prediction | list[Prediction]:
        """A prediction for one input, or a list of them for a list, or for the rows of a DataFrame.

        Args:
            inputs: Of a model of pictures each a path, a picture of Pillow, or an array of uint8,
                (height, width) or (height, width, channels); an array of four dimensions is a list
                of pictures. Of a model of texts each a str. Of a model of tables each a mapping
                with a value for every column that the model was trained on.

        Raises:
            DataError: An input can't be read as what the model was trained on.
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
