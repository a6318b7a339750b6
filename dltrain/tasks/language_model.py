"""Language models: which token comes next, and text made by asking again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.core.batch import Batch
from dltrain.core.data_spec import DataSpec, TextInputs
from dltrain.core.errors import UsageError
from dltrain.core.protocols import Loss, ProcessGroup
from dltrain.core.registry import TASKS
from dltrain.core.task import Figure, Phase, Task, TaskContext
from dltrain.data.tokenization import written_texts
from dltrain.tasks.common import (
    comparing_loss,
    computed,
    model_of_inputs,
    outputs_of,
    require_weight,
    scalars_of,
)
from dltrain.tasks.token_loss import summed_cross_entropy, summed_token_loss, token_weight

START_TOKENS = ("\n", "\u010a", ".")
"""The second is how tokenizers of bytes, such as GPT-2's, spell the end of a line."""

SAMPLE_TOKENS = 200
"""Length of the text that each evaluation shows."""


@TASKS.register("language_model")
class LanguageModel(Task):
    """Learns the next token of a text; every token counts alike, padding not at all.

    `perplexity` and `bits_per_token` are those of the plain cross-entropy of the softmax, whatever
    label smoothing or class weights the loss has.
    """

    def __init__(self, context: TaskContext, /) -> None:
        assert isinstance(context.spec.inputs, TextInputs)
        self.spec: DataSpec = context.spec
        self.inputs: TextInputs = context.spec.inputs
        self.model: nn.Module = model_of_inputs(context)
        self.loss_function: Loss = comparing_loss(context)
        self.metrics: Sequence[Any] = context.metrics
        own = {"loss": False, "perplexity": False, "bits_per_token": False}
        self.scalars: Mapping[str, bool | None] = scalars_of(context, own)
        self.phases: tuple[Phase, ...] = (context.make_phase("main", context.model),)
        self.process_group: ProcessGroup = context.process_group
        self._shows_text = context.num_images > 0
        self._shown: str | None = None

    @staticmethod
    def adapt_spec(spec: DataSpec) -> DataSpec:
        """The next token.

        Raises:
            UsageError: The data is no running text.
        """
        if spec.inputs.kind != "text" or spec.class_names != spec.inputs.vocabulary:
            raise UsageError(
                "task 'language_model' is for running text: use data 'text_file', 'shakespeare' or "
                "'python_docs'"
            )
        return spec

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Tokens, or the sum of their class weights."""
        return token_weight(self.loss_function, batch.targets, self.inputs.padding)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Summed loss of the tokens, a scalar."""
        outputs = self._outputs(batch)
        return summed_token_loss(self.loss_function, outputs, batch.targets, self.inputs.padding)

    def _outputs(self, batch: Batch) -> Tensor:
        shape = *batch.inputs.shape, self.loss_function.num_outputs
        return outputs_of(self.model, batch, *shape)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Loss, perplexity, bits per token and metrics, over all tokens."""
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        nats: Tensor | float = 0.0
        tokens: Tensor | int = 0
        padding = self.inputs.padding
        for metric in self.metrics:
            metric.reset()
        for batch in batches:
            outputs = self._outputs(batch)
            own = summed_token_loss(self.loss_function, outputs, batch.targets, padding)
            own_weight = torch.as_tensor(self.weight(batch, self.phases[0])).to(own.device)
            counts = batch.targets != padding
            plain = summed_cross_entropy(outputs, batch.targets, padding)
            sums = own, own_weight, plain, counts.sum()
            context = self.process_group.all_gather(batch, *(value.view(1) for value in sums))
            own, own_weight, own_nats, own_tokens = (values.sum() for values in context)
            total, weight = total + own, weight + own_weight
            nats, tokens = nats + own_nats, tokens + own_tokens
            if self.metrics:
                predictions, targets = self.process_group.all_gather(
                    batch, self.loss_function.predict(outputs[counts]), batch.targets[counts]
                )
                for metric in self.metrics:
                    metric.update(predictions, targets)
        require_weight(weight)
        mean_nats = float(nats / tokens)
        values = {
            "loss": float(total / weight),
            # exp would overflow; a NaN stays one.
            "perplexity": math.inf if mean_nats > 700 else math.exp(mean_nats),
            "bits_per_token": mean_nats / math.log(2),
        }
        values |= computed(self.metrics)
        if self._shows_text:
            self._shown = self._sample()
        return values

    def figures(self) -> list[Figure]:
        """A text that the model wrote at the last evaluation, always with the same seed."""
        # In Markdown, four spaces before a line keep it as it is.
        text = "" if self._shown is None else self._shown.replace("\n", "\n    ")
        return [] if self._shown is None else [Figure("sample", "text", f"    {text}")]

    def _sample(self) -> str:
        start = [self.start_token]
        tokens = self.generate(start, SAMPLE_TOKENS, 0.8, None, seeded(0))
        return "".join(written_texts(self.inputs, start, tokens))

    @property
    def start_token(self) -> int:
        """What a text without a prompt follows: a line's end, a full stop, or any token."""
        vocabulary = self.inputs.vocabulary
        starts = [vocabulary.index(token) for token in START_TOKENS if token in vocabulary]
        no_text = (self.inputs.padding, self.inputs.unknown)
        return (starts or [n for n in range(len(vocabulary)) if n not in no_text])[0]

    def generate(
        self,
        prompt_tokens: Sequence[int],
        num_tokens: int,
        temperature: float,
        top_k: int | None,
        generator: torch.Generator,
    ) -> Iterator[int]:
        """Writes on from a prompt; the model should be in evaluation mode.

        A model with a method `step(tokens, state)`, as recurrent ones have, reads each token once
        and remembers. Any other reads the last tokens again for each new one, a window of them.

        Args:
            prompt_tokens: At least one.
            num_tokens: How many to write.
            temperature: Divides the logits: below 1 the probable becomes more probable.
            top_k: Draw from the most probable tokens only; None from all.
            generator: On the CPU; the only source of chance.

        Yields:
            Tokens, as soon as they are drawn.
        """
        (window,) = self.spec.input_shape
        no_text = [n for n in (self.inputs.padding, self.inputs.unknown) if n is not None]
        device = next(self.model.parameters()).device
        step, state = getattr(self.model, "step", None), None
        tokens = list(prompt_tokens)
        for _ in range(num_tokens):
            inputs = torch.tensor([tokens], device=device)
            with torch.inference_mode():
                if step is None:
                    outputs = self.model(inputs[:, -window:])
                else:
                    outputs, state = step(inputs, state)
            logits = outputs[0, -1].cpu().double().clone()
            logits[no_text] = -math.inf
            token = _draw(logits, temperature, top_k, generator)
            tokens = [token] if step is not None else [*tokens[-window:], token]
            yield token


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU, apart from the global ones."""
    return torch.Generator().manual_seed(seed)


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """A token from (vocabulary,) logits."""
    best = logits.topk(min(top_k or len(logits), len(logits)))
    probabilities = (best.values / temperature).softmax(dim=0)
    return int(best.indices[torch.multinomial(probabilities, 1, generator=generator)])
