"""Figures of predictions, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dltrain.core.data_spec import DataSpec, ImageInputs
from dltrain.metrics.classification import predicted_classes

MAX_CLASSES = 100
"""A confusion matrix with more classes would be illegible and is not drawn."""

_INK, _PAPER, _GOOD, _BAD = (32, 33, 36), (255, 255, 255), (24, 128, 56), (197, 34, 31)


def to_pixels(spec: DataSpec, inputs: Tensor) -> Tensor:
    """Return uint8 pixels on the CPU for normalized images, (n, channels, height, width)."""
    assert isinstance(spec.inputs, ImageInputs)
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.inputs.mean, spec.inputs.std))
    return ((inputs.float().cpu() * std + mean) * 255).round().clamp(0, 255).byte()


def three_channels(pixels: Tensor) -> Tensor:
    """Convert (n, channels, height, width) to RGB, (n, 3, height, width)."""
    return pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]


def grid(pixels: Tensor, columns: int | None = None) -> Tensor:
    """Return a grid of images; small ones are enlarged.

    Args:
        pixels: (n, channels, height, width) uint8.
        columns: Images per row; by default the grid is square.

    Returns:
        (3, height, width) uint8.
    """
    scale = max(1, 56 // max(pixels.shape[2:]))
    pixels = three_channels(pixels).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns = columns or math.ceil(math.sqrt(len(pixels)))
    rows, (height, width) = math.ceil(len(pixels) / columns), pixels.shape[2:]
    sheet = torch.full((3, rows * (height + 2) + 2, columns * (width + 2) + 2), 255).byte()
    for i, image_pixels in enumerate(pixels):
        y, x = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[:, y : y + height, x : x + width] = image_pixels
    return sheet


def examples(spec: DataSpec, inputs: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
    """Return a grid of inputs with predictions: green if correct, else red with the true class.

    Args:
        spec: The spec, with class names and normalization.
        inputs: (n, channels, height, width), normalized.
        predictions: (n, classes) probabilities, or (n, values).
        targets: (n,) classes, or (n, values).

    Returns:
        (3, height, width) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    pixels = three_channels(to_pixels(spec, inputs))
    cell, caption = 112, 34 if spec.num_classes else 18
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * (cell + 4) + 4, rows * (cell + caption + 4) + 4), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, image_pixels in enumerate(pixels):
        x, y = 4 + i % columns * (cell + 4), 4 + i // columns * (cell + caption + 4)
        text, colour = _caption(spec, predictions[i].float().cpu(), targets[i].cpu())
        image = Image.fromarray(image_pixels.permute(1, 2, 0).numpy()).resize((cell, cell))
        draw.text((x + 1, y), text, fill=colour, font=font)
        sheet.paste(image, (x, y + caption))
    return _tensor_of(sheet)


def _caption(spec: DataSpec, prediction: Tensor, target: Tensor) -> tuple[str, tuple[int, ...]]:
    if not spec.num_classes:
        return f"{prediction[0]:.3g} ({target.reshape(-1)[0]:.3g})", _INK
    guess, truth = int(predicted_classes(prediction)), int(target)
    name, percent = spec.class_names[guess][:12], f"{prediction[guess]:.0%}"
    if guess < 0:
        name, percent = "no class", "NaN"
    if guess == truth:
        return f"{name} {percent}", _GOOD
    return f"{name} {percent}\nis {spec.class_names[truth][:12]}", _BAD


def confusion_matrix(counts: Tensor, names: Sequence[str]) -> Tensor:
    """Return an image of a confusion matrix: rows are true classes, shaded by their fractions.

    Args:
        counts: (classes, classes) int64.
        names: One name per class.

    Returns:
        (3, height, width) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    classes = len(names)
    cell = 44 if classes <= 20 else 14
    font = ImageFont.load_default(13)
    labels = [name[:14] for name in names]
    margin = 34 + int(max(font.getlength(label) for label in labels))
    sheet = Image.new("RGB", (margin + classes * cell + 8, margin + classes * cell + 8), _PAPER)
    draw = ImageDraw.Draw(sheet)
    fractions = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for row in range(classes):
        for column in range(classes):
            fraction, count = float(fractions[row, column]), int(counts[row, column])
            x, y = margin + column * cell, margin + row * cell
            # The square root makes rare confusions visible beside a diagonal near 1.
            shade = tuple(
                round(p + (i - p) * math.sqrt(fraction))
                for p, i in zip(_PAPER, (26, 90, 160), strict=True)
            )
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
            if count and classes <= 20:
                ink = _PAPER if fraction > 0.25 else _INK
                middle = (x + cell / 2 - 1, y + cell / 2 - 1)
                draw.text(middle, str(count), fill=ink, font=font, anchor="mm")
    if classes <= 20:
        for i, label in enumerate(labels):
            centre = margin + i * cell + cell / 2
            draw.text((margin - 6, centre), label, fill=_INK, font=font, anchor="rm")
            _vertical_text(sheet, label, (centre, margin - 6), font)
    draw.text((margin + classes * cell / 2, 6), "predicted", fill=_INK, font=font, anchor="mt")
    _vertical_text(sheet, "true", (12, margin + classes * cell / 2), font)
    return _tensor_of(sheet)


def _vertical_text(sheet, text: str, end: tuple[float, float], font) -> None:
    """Draw text that reads upwards and ends at a point."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (int(font.getlength(text)) + 2, 18), _PAPER)
    ImageDraw.Draw(strip).text((1, 1), text, fill=_INK, font=font)
    turned = strip.rotate(90, expand=True)
    sheet.paste(turned, (int(end[0] - turned.width / 2), int(end[1] - turned.height)))


def curve_counts(probabilities: Tensor, targets: Tensor, thresholds: int) -> Tensor:
    """Return one-versus-rest counts above evenly spaced thresholds.

    Args:
        probabilities: (batch, classes); NaN counts as 0.
        targets: (batch,) int64.
        thresholds: Number of thresholds, from 0 to 1.

    Returns:
        (classes, 2, thresholds) int64: true positives and false positives at each threshold.
    """
    classes = probabilities.shape[1]
    scores = probabilities.float().nan_to_num(0.0).clamp(0, 1)
    bins = (scores * (thresholds - 1)).long()
    truth = torch.nn.functional.one_hot(targets, classes)
    column = torch.arange(classes, device=bins.device)
    place = ((column * 2 + (1 - truth)) * thresholds + bins).flatten()
    counts = torch.zeros(classes * 2 * thresholds, dtype=torch.int64, device=place.device)
    counts = counts.index_add(0, place, torch.ones_like(place))
    # A score counts at every threshold below it: sum from the right.
    return counts.view(classes, 2, thresholds).flip(-1).cumsum(-1).flip(-1)


def pr_curve(counts: Tensor) -> Tensor:
    """Convert counts of one class, (2, thresholds), to the format of TensorBoard's PR plug-in.

    Returns:
        (6, thresholds) float64: true positives, false positives, true negatives, false negatives,
        precision, recall.
    """
    tp, fp = counts.double()
    positives, negatives = tp[0], fp[0]
    precision = torch.where(tp + fp > 0, tp / (tp + fp).clamp(min=1), 1.0)
    recall = tp / positives.clamp(min=1)
    return torch.stack([tp, fp, negatives - fp, positives - tp, precision, recall])


def _tensor_of(sheet) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
