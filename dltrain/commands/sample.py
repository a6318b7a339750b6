"""New text from a language model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dltrain.commands.inference import load_trained
from dltrain.data.corpus import decode, encode
from dltrain.data.draws import key
from dltrain.data.tokens import split_text
from dltrain.errors import UsageError
from dltrain.spec import UNKNOWN
from dltrain.tasks.language_model import LanguageModel, seeded


@dataclass(frozen=True)
class Piece:
    """The next bit of a text: `number` says of which, counted from 0."""

    number: int
    text: str


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote, without the prompt."""

    prompt: str
    text: str


def sample(
    run_dir: Path,
    prompt: str = "",
    *,
    num_samples: int = 1,
    num_tokens: int = 300,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    checkpoint: str | None = None,
    device: str | None = None,
) -> list[Sample]:
    """Whole texts; see `stream`."""
    texts = [""] * num_samples
    for piece in stream(
        run_dir,
        prompt,
        num_samples=num_samples,
        num_tokens=num_tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        checkpoint=checkpoint,
        device=device,
    ):
        texts[piece.number] += piece.text
    return [Sample(prompt, text) for text in texts]


def stream(
    run_dir: Path,
    prompt: str = "",
    *,
    num_samples: int = 1,
    num_tokens: int = 300,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    checkpoint: str | None = None,
    device: str | None = None,
) -> Iterator[Piece]:
    """Writes texts on from a prompt, one after another, token by token.

    Args:
        run_dir: The run of a language model.
        prompt: What the texts begin with.
        num_samples: How many texts.
        num_tokens: Tokens in each, the prompt's not counted.
        temperature: Above 0; lower is more predictable.
        top_k: Draw from the most probable tokens only; None from all.
        seed: Decides all of it; a text does not depend on how many come after it.
        checkpoint: See `load_trained`.
        device: Instead of the config's.

    Raises:
        RunError: There is no such checkpoint.
        UsageError: The run's task is no language model, or the prompt has a token that the training
            text lacked.
    """
    trained = load_trained(run_dir, checkpoint, device)
    task = trained.task
    if not isinstance(task, LanguageModel):
        raise UsageError(
            f"task {trained.experiment.task.name!r} writes no text; 'language_model' does"
        )
    tokens = _prompt_tokens(task, prompt)

    def pieces() -> Iterator[Piece]:
        for number in range(num_samples):
            generator = seeded(key(seed, number))
            for token in task.generate(tokens, num_tokens, temperature, top_k, generator):
                yield Piece(number, decode(task.inputs, token))

    return pieces()


def _prompt_tokens(task: LanguageModel, prompt: str) -> list[int]:
    tokens = encode(task.inputs, prompt)
    if UNKNOWN in tokens:
        words = split_text(prompt, task.inputs.tokenizer, task.inputs.lowercase)
        unknown = words[tokens.index(UNKNOWN)]
        raise UsageError(f"the prompt has {unknown!r}, which the training text never had")
    return tokens or [task.start_token]
