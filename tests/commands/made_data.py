"""Data as users have it, made: what `dltrain init` looks at."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def image_folder(folder: Path, counts: dict[str, int], side: int = 20, seed: int = 0) -> None:
    """Create noisy images of one color in FOLDER/CLASS, all different."""
    draw = np.random.default_rng(seed)
    for (name, count), colour in zip(counts.items(), COLOURS.values(), strict=False):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            height, width = draw.integers(side, side + 8, 2)
            pixels = draw.normal(0, 40, (height, width, 3)) + np.array(colour)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number}.png")


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], **form: str) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **form).writerows([header, *rows])


HOUSES = ["id", "built on", "area", "größe", "district", "price"]


def houses(count: int = 200) -> list[list[object]]:
    """An identifier, a date, numbers, a category, and a price that follows from them."""
    draw = random.Random(0)
    rows: list[list[object]] = []
    for number in range(count):
        area, district = draw.uniform(30, 200), draw.choice(["north", "south"])
        price = 3 * area + 50 * (district == "south") + draw.gauss(0, 5)
        day = f"19{50 + number % 40}-{1 + number % 12:02}-01"
        rows.append([number + 1, day, area, draw.uniform(1, 9), district, price])
    return rows


def flowers(counts: dict[str, int]) -> list[list[object]]:
    """Two numbers that tell the class."""
    draw = random.Random(0)
    rows: list[list[object]] = [
        [draw.gauss(3 * place, 1), draw.gauss(-3 * place, 1), name]
        for place, (name, count) in enumerate(counts.items())
        for _ in range(count)
    ]
    draw.shuffle(rows)
    return rows


def reviews(count: int = 240) -> list[tuple[str, str]]:
    """Sentences whose words tell the class, none like another."""
    draw = random.Random(0)
    moods = {"good": ("fine", "moving", "bright"), "bad": ("dull", "loud", "stale")}
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        things = " and ".join(draw.sample(["plot", "cast", "score", "end", "humour", "pace"], 3))
        word = draw.choice(moods[label])
        rows.append((f'the {things} of film {number} are, "all in all", {word}', label))
    return rows
