"""Progress of training on a terminal and in log.txt."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from tqdm import tqdm

from dltrain.core.errors import escape_control_characters
from dltrain.core.jsonable import format_decimal
from dltrain.loggers.base import Logger


class Progress(Logger):
    """Print a line per evaluation, and show a progress bar if standard error is a terminal.

    Args:
        log: File that receives the lines as well.
        quiet: Whether to print nothing to standard error.
    """

    def __init__(self, log: TextIO, quiet: bool = False) -> None:
        self._log, self._quiet = log, quiet
        self._bar: tqdm | None = None
        self._train: dict[str, float] = {}
        self._total_steps = 0

    def on_fit_start(self, step: int, total_steps: int, batch_size: int) -> None:
        """Show the progress bar."""
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            disable=self._quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}{postfix}]",
            smoothing=0.1,
        )

    def on_step_end(self, step: int) -> None:
        """Advance the progress bar."""
        if self._bar is not None:
            self._bar.update(1)

    def log_scalars(self, step: int, epoch: float, split: str, values: Mapping[str, float]) -> None:
        """Show training values in the progress bar, and results of an evaluation in a line."""
        if split == "train":
            self._train = {escape_control_characters(name): value for name, value in values.items()}
        elif split == "system" and self._bar is not None:
            shown = {n: f"{v:.4g}" for n, v in self._train.items() if n.endswith("loss")}
            rates = [v for n, v in self._train.items() if n.endswith("learning_rate")]
            if rates:
                shown["lr"] = f"{rates[0]:.2g}"
            self._bar.set_postfix(
                shown | {"samples/s": f"{values['samples_per_second']:,.0f}"}, refresh=False
            )
        elif split in ("val", "test"):
            train = "  ".join(f"train {n} {v:.4f}" for n, v in self._train.items() if "loss" in n)
            rest = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            at = f"epoch {format_decimal(epoch):<6} step {step}/{self._total_steps}"
            self.log_message(
                f"{at}  {train}  {split} {rest}" if split == "val" else f"{split}  {rest}"
            )

    def log_message(self, text: str) -> None:
        """Print a line above the progress bar."""
        text = escape_control_characters(text)
        print(text, file=self._log, flush=True)
        if not self._quiet:
            try:
                tqdm.write(text, file=sys.stderr)
            except OSError:  # the reader is gone or its disk is full: training continues
                self._quiet = True

    def close(self) -> None:
        """Close the progress bar, which stays visible."""
        if self._bar is not None:
            self._bar.close()
