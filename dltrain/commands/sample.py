"""New text from a language model, new pictures from a generator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dltrain.build import load_trained
from dltrain.core.errors import RunError, UsageError
from dltrain.core.task import Task, task_class
from dltrain.data.seeding import key, normal
from dltrain.data.tokenization import Encoder, split_text, written_texts
from dltrain.rundir.directory import Run
from dltrain.tasks.figures import grid
from dltrain.tasks.language_model import LanguageModel, seeded

ROW = 8
"""Pictures in a row that goes from one to another."""


@dataclass(frozen=True)
class Piece:
    """The next bit of a text: `number` says of which, counted from 0."""

    number: int
    text: str


@dataclass(frozen=True)
class Pictures:
    """A PNG file with that many pictures side by side."""

    path: str
    count: int


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote, without the prompt."""

    prompt: str
    text: str


def sample(
    run_dir: str | Path,
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
    run_dir: str | Path,
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
    trained = load_trained(run_dir, checkpoint, device, measures=False)
    task = trained.task
    if not isinstance(task, LanguageModel):
        raise UsageError(
            f"task {trained.experiment.task.name!r} writes no text; 'language_model' does"
        )
    tokens = _prompt_tokens(task, prompt)

    def pieces() -> Iterator[Piece]:
        for number in range(num_samples):
            generator = seeded(key(seed, number))
            written = task.generate(tokens, num_tokens, temperature, top_k, generator)
            for text in written_texts(task.inputs, tokens, written):
                yield Piece(number, text)

    return pieces()


def makes_pictures(run_dir: str | Path) -> bool:
    """Whether a run's task makes pictures, so that `sample_pictures` is for it."""
    task_type = task_class(Run.open(run_dir).experiment().task.component.builder)
    return task_type is not None and task_type.implements(Task.generate_images)


def sample_pictures(
    run_dir: str | Path,
    output: str | Path | None = None,
    *,
    num_samples: int = 64,
    interpolate: bool = False,
    seed: int = 0,
    checkpoint: str | None = None,
    device: str | None = None,
) -> Pictures:
    """Writes a grid of pictures that a run's generator makes.

    Args:
        run_dir: The run of a GAN, or of a variational autoencoder.
        output: The PNG file; `samples.png` in the run directory if not given.
        num_samples: How many pictures.
        interpolate: Each row goes from one picture to another, along the arc between their noises.
        seed: Decides all of it; a picture does not depend on how many come after it.
        checkpoint: See `load_trained`.
        device: Instead of the config's.

    Raises:
        RunError: There is no such checkpoint, or the file can't be written.
        UsageError: The run's task makes no pictures, or `output` is no PNG file.
    """
    from PIL import Image

    path = Path(run_dir, "samples.png") if output is None else Path(output)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written to a .png file")
    trained = load_trained(run_dir, checkpoint, device, measures=False)
    task = trained.task
    if not task.latent:
        raise UsageError(
            f"the model of {run_dir} makes no new pictures: it has no noise to start from"
        )
    index = torch.arange(num_samples, device=trained.runtime.device)
    if interpolate:
        row, place = index // ROW, (index % ROW)[:, None] / (ROW - 1)
        begin, end = (normal(key(seed), 2 * row + side, task.latent) for side in (0, 1))
        noise = _along_the_arc(begin, end, place)
    else:
        noise = normal(key(seed), index, task.latent)
    parts = noise.to(trained.runtime.precision.dtype).split(
        trained.experiment.train.samples_at_once
    )
    with torch.inference_mode(), trained.runtime.precision.autocast():
        pixels = torch.cat([task.generate_images(part) for part in parts])
    sheet = grid(pixels, ROW if interpolate else None)
    try:
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    return Pictures(str(path), num_samples)


def _along_the_arc(one: Tensor, other: Tensor, place: Tensor) -> Tensor:
    """Points between vectors, (n, size), that keep their length (Shoemake's slerp, 1985).

    A straight line would pass nearer to the origin than noise of many dimensions ever comes.
    """
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=1)[:, None]
    angle = torch.arccos(cosine.clamp(-0.9999, 0.9999))
    return (torch.sin((1 - place) * angle) * one + torch.sin(place * angle) * other) / torch.sin(
        angle
    )


def _prompt_tokens(task: LanguageModel, prompt: str) -> list[int]:
    tokens = Encoder(task.inputs).running(prompt)
    if task.inputs.unknown in tokens:
        place = tokens.index(task.inputs.unknown)
        if task.inputs.tokenizer == "file":
            raise UsageError(f"token {place} of the prompt is unknown to the tokenizer")
        unknown = split_text(prompt, task.inputs)[place]
        raise UsageError(f"the prompt has {unknown!r}, which the training text never had")
    return tokens or [task.start_token]
