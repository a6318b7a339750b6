"""Task of language models: predict the next token, and generate text."""

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
from dltrain.data.tokenization import decode_stream
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
"""The second is a line break in byte-level tokenizers, such as that of GPT-2."""

SAMPLE_TOKENS = 200
"""Number of tokens in the text that each evaluation generates."""


@TASKS.register("language_model")
class LanguageModel(Task):
    """Predict the next token of a text; all tokens except padding have the same weight.

    `perplexity` and `bits_per_token` come from the plain cross-entropy of the softmax, without the
    label smoothing and the class weights of the loss.

    Example:
        >>> from dltrain.core.data_spec import DataSpec, TextInputs
        >>> from dltrain.losses.supervised import CrossEntropy
        >>> from dltrain.models.language_models import Gpt
        >>> tokens = ("<pad>", "<unknown>", "a", "b")
        >>> text = TextInputs("character", vocabulary=tokens)
        >>> spec = DataSpec((16,), 4, text, class_names=tokens)
        >>> model = Gpt(spec, layers=1, heads=2, width=8)
        >>> task = LanguageModel(TaskContext(spec, model, CrossEntropy(spec)))
        >>> windows = torch.full((5, 16), 2)
        >>> batch = Batch(windows, windows, index=torch.arange(5))
        >>> task.loss(batch, task.phases[0]).shape, task.weight(batch, task.phases[0])
        (torch.Size([]), tensor(80))
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
        """Return the spec unchanged.

        Raises:
            UsageError: The data is not running text.
        """
        if spec.inputs.kind != "text" or spec.class_names != spec.inputs.vocabulary:
            raise UsageError(
                "task 'language_model' expected running text: use data 'text_file', 'shakespeare' "
                "or 'python_docs'"
            )
        return spec

    def weight(self, batch: Batch, phase: Phase) -> Tensor | int:
        """Return the number of tokens, or the sum of their class weights."""
        return token_weight(self.loss_function, batch.targets, self.inputs.padding)

    def loss(self, batch: Batch, phase: Phase) -> Tensor:
        """Return the summed loss of the tokens, a scalar."""
        outputs = self._outputs(batch)
        return summed_token_loss(self.loss_function, outputs, batch.targets, self.inputs.padding)

    def _outputs(self, batch: Batch) -> Tensor:
        shape = *batch.inputs.shape, self.loss_function.num_outputs
        return outputs_of(self.model, batch, *shape)

    def evaluate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Return loss, perplexity, bits per token and metrics over all tokens."""
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
            # exp would overflow; NaN stays NaN.
            "perplexity": math.inf if mean_nats > 700 else math.exp(mean_nats),
            "bits_per_token": mean_nats / math.log(2),
        }
        values |= computed(self.metrics)
        if self._shows_text:
            self._shown = self._sample()
        return values

    def figures(self) -> list[Figure]:
        """Return the text that the last evaluation generated, with a fixed seed."""
        # In Markdown, four spaces before a line make it literal.
        text = "" if self._shown is None else self._shown.replace("\n", "\n    ")
        return [] if self._shown is None else [Figure("sample", "text", f"    {text}")]

    def _sample(self) -> str:
        start = [self.start_token]
        tokens = self.generate(start, SAMPLE_TOKENS, 0.8, None, seeded(0))
        return "".join(decode_stream(self.inputs, start, tokens))

    @property
    def start_token(self) -> int:
        """Token before a text without a prompt: a line break, a full stop, or the first token."""
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
        """Continue a prompt; the model must be in evaluation mode.

        A model with a method `step(tokens, state)`, such as a recurrent one, reads each token once
        and keeps a state. Other models read a window of the last tokens for each new token.

        Args:
            prompt_tokens: Ids of at least one token.
            num_tokens: Number of tokens to generate.
            temperature: Divisor of the logits: below 1, probable tokens become more probable.
            top_k: Number of most probable tokens to sample from; None uses all.
            generator: Random generator on the CPU.

        Yields:
            Ids of tokens, as soon as they are sampled.
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
            token = _sample_token(logits, temperature, top_k, generator)
            tokens = [token] if step is not None else [*tokens[-window:], token]
            yield token


def seeded(seed: int) -> torch.Generator:
    """Return a new random generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def _sample_token(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> int:
    """Sample a token from (vocabulary,) logits."""
    best = logits.topk(min(top_k or len(logits), len(logits)))
    probabilities = (best.values / temperature).softmax(dim=0)
    return int(best.indices[torch.multinomial(probabilities, 1, generator=generator)])
