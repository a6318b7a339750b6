"""Sequence-to-sequence task, such as translation."""

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
from dltrain.data.tokenization import decode
from dltrain.metrics.ratio import widest_float
from dltrain.models.seq2seq import Seq2SeqLstm
from dltrain.tasks.common import comparing_loss, computed, require_weight, scalars_of
from dltrain.tasks.token_loss import summed_token_loss, token_weight


@TASKS.register("seq2seq")
class Seq2Seq(Task):
    """Predict an output sequence for an input sequence; all output tokens have the same weight.

    Training uses teacher forcing: the model receives the correct previous tokens. `exact_match` is
    the fraction of sequences that greedy decoding generates without an error; NaN if a score is.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> from dltrain.losses.supervised import CrossEntropy
        >>> tokens = ("<pad>", "<unknown>", "a", "b")
        >>> text = TextInputs("character", vocabulary=tokens)
        >>> spec = DataSpec((0,), 5, text, class_names=(*tokens, "<end>"))
        >>> model = Seq2SeqLstm(spec, hidden_size=8)
        >>> task = Seq2Seq(TaskContext(spec, model, CrossEntropy(spec)))
        >>> inputs, targets = torch.tensor([[2, 3]]), torch.tensor([[3, 2, 4]])
        >>> batch = Batch(inputs, targets, index=torch.arange(1))
        >>> task.loss(batch, task.phases[0]).shape, task.generate(inputs, length=3).shape
        (torch.Size([]), torch.Size([1, 3]))
    """

    def __init__(self, context: TaskContext, /) -> None:
        if not all(hasattr(context.model, name) for name in ("encode", "decode")):
            raise OptionError("model", "task 'seq2seq' expected model 'seq2seq_lstm'")
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
        """Return the spec unchanged.

        Raises:
            UsageError: The targets of the data are not sequences.
        """
        if spec.inputs.kind != "text" or spec.class_names[:-1] != spec.inputs.vocabulary:
            raise UsageError("task 'seq2seq' expected pairs of sequences: use data 'toy_digits'")
        return spec

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the number of output tokens, or the sum of their class weights."""
        return token_weight(self.loss_function, batch.targets, self.inputs.padding)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss of the output tokens, a scalar."""
        outputs = self._outputs(batch)
        return summed_token_loss(self.loss_function, outputs, batch.targets, self.inputs.padding)

    def arguments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the input tokens, and the correct token before each output token."""
        return batch.inputs, self._after_start(batch.targets)[:, :-1]

    def _outputs(self, batch: Batch) -> Tensor:
        return self.model(*self.arguments(batch))

    def _after_start(self, targets: Tensor) -> Tensor:
        """Prepend the start token, which is the end token."""
        return torch.cat([targets.new_full((len(targets), 1), self.end), targets], dim=1)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return loss in nats per token, exact matches, and metrics over all tokens."""
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
                self.generate(batch.inputs, batch.targets.shape[1]),
            )
            total = total + summed_token_loss(self.loss_function, outputs, targets, padding)
            weight = weight + token_weight(self.loss_function, targets, padding)
            counts = targets != padding
            right = ((written == targets) | ~counts).all(dim=1)
            right = right.to(widest_float(right.device))
            # argmax of NaN scores is token 0.
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

    def generate(self, inputs: Tensor, length: int) -> Tensor:
        """Return greedily decoded tokens, (batch, length) int64; ignore those after an end token.

        Args:
            inputs: (batch, tokens) int64.
            length: Number of tokens to generate.
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
        """Return output texts of at most 2n + 10 tokens for inputs of n, (batch, tokens) int64."""
        # The limit depends on the length of each text, not on the padding of the batch.
        limits = (2 * (inputs != self.inputs.padding).sum(dim=1) + 10).tolist()
        written = self.generate(inputs, max(limits)).tolist()
        return [self._text(row[:limit]) for row, limit in zip(written, limits, strict=True)]

    def _text(self, numbers: list[int]) -> str:
        """Return the text before the end token or the padding."""
        ends = (self.end, self.inputs.padding)
        return decode(self.inputs, list(takewhile(lambda number: number not in ends, numbers)))

    def _show(self, inputs: Tensor, written: Tensor, targets: Tensor) -> None:
        for source, output, target in zip(inputs, written, targets, strict=True):
            if len(self._shown) == self._num_shown:
                return
            texts = [self._text(row.tolist()) for row in (source, output, target)]
            verdict = "right" if texts[1] == texts[2] else f"expected {texts[2]}"
            self._shown.append(f"| {texts[0]} | {texts[1]} | {verdict} |")

    def figures(self) -> list[Figure]:
        """Return inputs and outputs of the last evaluation as a table."""
        head = ["| input | output | |", "| --- | --- | --- |"]
        return [Figure("outputs", "text", "\n".join([*head, *self._shown]))] if self._shown else []
