"""Sequences made from sequences, token by token: translation, in the widest sense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.errors import OptionError, UsageError
from dltrain.core.protocols import Loss, ProcessGroup
from dltrain.core.registry import TASKS
from dltrain.core.task import Figure, Phase, Task, TaskContext
from dltrain.data.tokenization import text_of
from dltrain.metrics.ratio import widest_float
from dltrain.models.seq2seq import Seq2SeqLstm
from dltrain.tasks.common import comparing_loss, computed, require_weight, scalars_of
from dltrain.tasks.token_loss import summed_token_loss, token_weight


@TASKS.register("seq2seq")
class Seq2Seq(Task):
    """Learns output sequences for input sequences; every output token counts alike.

    In training the model sees the right tokens before each one; `exact_match` counts the sequences
    that it writes on its own, each time taking its most probable token, without a mistake; it is
    NaN where scores are.
    """

    def __init__(self, context: TaskContext, /) -> None:
        if not all(hasattr(context.model, name) for name in ("encode", "decode")):
            raise OptionError("model", "task 'seq2seq' needs model 'seq2seq_lstm'")
        assert isinstance(context.spec.inputs, TextInputs)
        self.inputs: TextInputs = context.spec.inputs
        self.model: nn.Module = context.model
        self.network: Seq2SeqLstm = cast(Seq2SeqLstm, context.model)
        self.end: int = len(context.spec.class_names) - 1
        self.loss_function: Loss = comparing_loss(context)
        self.metrics: Sequence[Any] = context.metrics
        self.scalars: Mapping[str, bool | None] = scalars_of(
            context, {"loss": False, "exact_match": True}
        )
        self.phases: tuple[Phase, ...] = (context.make_phase("main", context.model),)
        self._num_shown = context.num_images
        self.process_group: ProcessGroup = context.process_group
        self._shown: list[str] = []

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """The next token of the output.

        Raises:
            UsageError: The data has no sequences as targets.
        """
        if spec.inputs.kind != "text" or spec.class_names[:-1] != spec.inputs.vocabulary:
            raise UsageError("task 'seq2seq' is for pairs of sequences: use data 'toy_digits'")
        return spec

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Output tokens, or the sum of their class weights."""
        return token_weight(self.loss_function, batch.targets, self.inputs.padding)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Summed loss of the output tokens, a scalar."""
        outputs = self._outputs(batch)
        return summed_token_loss(self.loss_function, outputs, batch.targets, self.inputs.padding)

    def arguments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Input tokens, and the right token before each output token."""
        return batch.inputs, self._after_start(batch.targets)[:, :-1]

    def _outputs(self, batch: Batch) -> Tensor:
        return self.model(*self.arguments(batch))

    def _after_start(self, targets: Tensor) -> Tensor:
        """The end of one sequence is the start of the next."""
        return torch.cat([targets.new_full((len(targets), 1), self.end), targets], dim=1)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Loss in nats a token, exactly right sequences, and metrics over all tokens."""
        count = 0
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        exact: Tensor | float = 0.0
        padding = self.inputs.padding
        self._shown = []
        for metric in self.metrics:
            metric.reset()
        for batch in batches:
            inputs, targets, outputs, written = self.process_group.all_gather(
                batch,
                batch.inputs,
                batch.targets,
                self._outputs(batch),
                self.write(batch.inputs, batch.targets.shape[1]),
            )
            total = total + summed_token_loss(self.loss_function, outputs, targets, padding)
            weight = weight + token_weight(self.loss_function, targets, padding)
            counts = targets != padding
            right = ((written == targets) | ~counts).all(dim=1)
            right = right.to(widest_float(right.device))
            # The most probable of NaN scores would be token 0.
            undefined = outputs.isnan().any(dim=2).any(dim=1)
            exact = exact + right.masked_fill(undefined, math.nan).sum()
            count += len(targets)
            if self.metrics:
                predictions = self.loss_function.predict(outputs[counts])
                for metric in self.metrics:
                    metric.update(predictions, targets[counts])
            self._show(inputs, written, targets)
        require_weight(weight)
        values = {"loss": float(total / weight), "exact_match": float(exact) / count}
        return values | computed(self.metrics)

    def write(self, inputs: Tensor, length: int) -> Tensor:
        """The most probable token after each, (batch, length) int64; nothing counts after an end.

        Args:
            inputs: (batch, tokens) int64.
            length: Where to stop if no sequence has ended.
        """
        memory, state = self.network.encode(inputs)
        token = inputs.new_full((len(inputs), 1), self.end)
        valid = inputs != self.inputs.padding
        written = []
        for _ in range(length):
            logits, state = self.network.decode(token, memory, valid, state)
            token = logits.argmax(dim=2)
            written.append(token)
        return torch.cat(written, dim=1)

    def transduce(self, inputs: Tensor) -> list[str]:
        """Output texts for inputs, (batch, tokens) int64; at most twice as long, and ten tokens."""
        # Each by its own length: a text must not depend on the padding beside longer ones.
        limits = (2 * (inputs != self.inputs.padding).sum(dim=1) + 10).tolist()
        written = self.write(inputs, max(limits)).tolist()
        return [self._text(row[:limit]) for row, limit in zip(written, limits, strict=True)]

    def _text(self, numbers: list[int]) -> str:
        """Up to the end, or to the padding."""
        ends = (self.end, self.inputs.padding)
        return text_of(self.inputs, list(takewhile(lambda number: number not in ends, numbers)))

    def _show(self, inputs: Tensor, written: Tensor, targets: Tensor) -> None:
        for source, given, wanted in zip(inputs, written, targets, strict=True):
            if len(self._shown) == self._num_shown:
                return
            texts = [self._text(row.tolist()) for row in (source, given, wanted)]
            verdict = "right" if texts[1] == texts[2] else f"expected {texts[2]}"
            self._shown.append(f"| {texts[0]} | {texts[1]} | {verdict} |")

    def figures(self) -> list[Figure]:
        """Some inputs of the last evaluation, what was written, and whether it is right."""
        head = ["| input | output | |", "| --- | --- | --- |"]
        return [Figure("outputs", "text", "\n".join([*head, *self._shown]))] if self._shown else []
