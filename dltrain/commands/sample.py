"""Generate text with a language model, or images with a GAN or a variational autoencoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dltrain.build import load_trained
from dltrain.core.errors import RunError, UsageError
from dltrain.core.task import Task, task_class
from dltrain.data.seeding import derive_seed, normal
from dltrain.data.tokenization import Encoder, decode_stream, split_text
from dltrain.rundir.directory import Run
from dltrain.tasks.figures import grid
from dltrain.tasks.language_model import LanguageModel, seeded

ROW = 8
"""Number of images in a row of an interpolation."""


@dataclass(frozen=True)
class Piece:
    """The next piece of a text; `number` is the index of the text, from 0."""

    number: int
    text: str


@dataclass(frozen=True)
class ImageGrid:
    """A PNG file with `count` images side by side."""

    path: str
    count: int


@dataclass(frozen=True)
class Sample:
    """A generated text, without the prompt."""

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
    """Generate whole texts; see `stream`."""
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
    """Generate texts from a prompt, one after another, token by token.

    Args:
        run_dir: Directory of the run of a language model.
        prompt: Beginning of the texts.
        num_samples: Number of texts.
        num_tokens: Number of tokens in each text, in addition to the prompt.
        temperature: Sampling temperature, above 0; lower is more predictable.
        top_k: Number of most probable tokens to draw from; None for all.
        seed: Random seed; a text does not depend on the number of texts after it.
        checkpoint: Name of a checkpoint; see `load_trained`.
        device: Device to use instead of the config's.

    Raises:
        RunError: There is no such checkpoint.
        UsageError: The run's task is no language model, or the prompt has a token that the training
            text does not have.
    """
    trained = load_trained(run_dir, checkpoint, device, with_metrics=False)
    task = trained.task
    if not isinstance(task, LanguageModel):
        raise UsageError(
            f"task {trained.experiment.task.name!r} writes no text; 'language_model' does"
        )
    tokens = _prompt_tokens(task, prompt)

    def pieces() -> Iterator[Piece]:
        for number in range(num_samples):
            generator = seeded(derive_seed(seed, number))
            written = task.generate(tokens, num_tokens, temperature, top_k, generator)
            for text in decode_stream(task.inputs, tokens, written):
                yield Piece(number, text)

    return pieces()


def generates_images(run_dir: str | Path) -> bool:
    """Return whether a run's task generates images, so that `sample_images` works."""
    task_type = task_class(Run.open(run_dir).experiment().task.component.builder)
    return task_type is not None and task_type.implements(Task.generate_images)


def sample_images(
    run_dir: str | Path,
    output: str | Path | None = None,
    *,
    num_samples: int = 64,
    interpolate: bool = False,
    seed: int = 0,
    checkpoint: str | None = None,
    device: str | None = None,
) -> ImageGrid:
    """Write a grid of generated images.

    Args:
        run_dir: Directory of the run of a GAN or of a variational autoencoder.
        output: PNG file (default: `samples.png` in the run directory).
        num_samples: Number of images.
        interpolate: Whether each row interpolates between two images, along the arc between their
            latent vectors.
        seed: Random seed; an image does not depend on the number of images after it.
        checkpoint: Name of a checkpoint; see `load_trained`.
        device: Device to use instead of the config's.

    Raises:
        RunError: There is no such checkpoint, or the file can't be written.
        UsageError: The run's task generates no images, or `output` is no PNG file.
    """
    from PIL import Image

    path = Path(run_dir, "samples.png") if output is None else Path(output)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: images are written to a .png file")
    trained = load_trained(run_dir, checkpoint, device, with_metrics=False)
    task = trained.task
    if not task.latent:
        raise UsageError(
            f"the model of {run_dir} generates no images: it has no latent noise to start from"
        )
    index = torch.arange(num_samples, device=trained.runtime.device)
    if interpolate:
        row, position = index // ROW, (index % ROW)[:, None] / (ROW - 1)
        start, end = (normal(derive_seed(seed), 2 * row + side, task.latent) for side in (0, 1))
        noise = _slerp(start, end, position)
    else:
        noise = normal(derive_seed(seed), index, task.latent)
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
    return ImageGrid(str(path), num_samples)


def _slerp(start: Tensor, end: Tensor, position: Tensor) -> Tensor:
    """Interpolate spherically between vectors, (n, size) (slerp; Shoemake, 1985).

    A straight line would pass nearer to the origin than noise of many dimensions ever is.

    Args:
        start: (n, size).
        end: (n, size).
        position: (n, 1), from 0 to 1.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=1)[:, None]
    angle = torch.arccos(cosine.clamp(-0.9999, 0.9999))
    weighted = torch.sin((1 - position) * angle) * start + torch.sin(position * angle) * end
    return weighted / torch.sin(angle)


def _prompt_tokens(task: LanguageModel, prompt: str) -> list[int]:
    tokens = Encoder(task.inputs).encode_untruncated(prompt)
    if task.inputs.unknown in tokens:
        position = tokens.index(task.inputs.unknown)
        if task.inputs.tokenizer == "file":
            raise UsageError(f"token {position} of the prompt is unknown to the tokenizer")
        unknown = split_text(prompt, task.inputs)[position]
        raise UsageError(f"the prompt has {unknown!r}, which the training text never had")
    return tokens or [task.start_token]
