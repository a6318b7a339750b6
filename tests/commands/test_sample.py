"""Text on the command line: as it comes, and always the same for a seed."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
import yaml
from PIL import Image
from small_data import write_text
from small_runs import write_folder

import dltrain
from dltrain.commands.sample import sample, sample_images, stream
from dltrain.core.errors import UsageError

CONFIG = {
    "task": "language_model",
    "model": {"name": "gpt", "layers": 1, "heads": 2, "width": 16},
    "data": {"name": "text_file", "path": "text.txt", "window": 12},
    "loss": "cross_entropy",
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": {"steps": 20, "batch_size": 16, "device": "cpu"},
    "recording": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of a language model of characters, of one of words, and of a classifier."""
    place = tmp_path_factory.mktemp("runs")
    write_text(place / "text.txt", 60)
    write_folder(place)
    (place / "text.yaml").write_text(yaml.safe_dump(CONFIG))
    path = f"data.path={place / 'text.txt'}"
    for name, config, overrides in (
        ("letters", "text.yaml", [path]),
        ("words", "text.yaml", [path, "data.tokenizer=word"]),
        ("classifier", "config.yaml", [f"data.root={place / 'images'}", "train.steps=1"]),
    ):
        experiment = dltrain.load(place / config, overrides)
        dltrain.train(experiment, run_dir=place / name, quiet=True)
    return place


def test_streaming_gives_the_same_text(runs):
    options = {"num_samples": 2, "num_tokens": 30, "top_k": 5, "seed": 4}
    whole = sample(runs / "letters", "to be", **options)
    pieces = list(stream(runs / "letters", "to be", **options))
    assert len(pieces) == 60
    assert [len(s.text) for s in whole] == [30, 30]
    for number, text in enumerate(whole):
        assert "".join(p.text for p in pieces if p.number == number) == text.text
    assert whole[0] != whole[1]


def test_a_text_depends_on_its_seed_and_not_on_how_many_follow(runs):
    first = sample(runs / "letters", seed=1, num_tokens=30, num_samples=3)
    assert sample(runs / "letters", seed=1, num_tokens=30) == first[:1]
    assert sample(runs / "letters", seed=2, num_tokens=30) != first[:1]


def test_the_command_writes_prompt_and_texts(call, runs):
    words = ("sample", runs / "letters", "--prompt", "what ", "-n", 2, "--tokens", 20, "--seed", 1)
    words += ("--temperature", 0.5, "--top-k", 3)
    shown = call(*words)
    assert (shown.code, shown.err) == (0, "")
    listed = json.loads(call(*words, "--json").out)
    assert [item["prompt"] for item in listed] == ["what ", "what "]
    assert shown.out == "\n\n".join(item["prompt"] + item["text"] for item in listed) + "\n"
    assert call(*words).out == shown.out


def test_words_are_joined_by_spaces(runs):
    (text,) = sample(runs / "words", "to be", num_tokens=10)
    assert len(text.text.split()) == 10
    assert text.text.startswith(" ")


def test_mistakes_are_told(call, runs):
    with pytest.raises(UsageError, match="task 'supervised' writes no text"):
        stream(runs / "classifier")
    with pytest.raises(UsageError, match="the prompt has 'é', which"):
        stream(runs / "letters", "é")
    refused = call("sample", runs / "letters", "--temperature", 0)
    assert refused.code == 2
    assert "0.0 is not in the range x>0" in refused.err


# ------------------------------------------------------------------------------------- images

GAN = {
    "task": "gan",
    "model": {"name": "dcgan", "latent": 5, "channels": [4, 3]},
    "data": {"name": "idx", "root": "images", "validation": 30},
    "loss": "hinge",
    "optimizer": {"name": "adam", "lr": 0.001},
    "train": {"steps": 3, "batch_size": 32, "device": "cpu", "evaluate_batch_size": 7},
    "recording": {"tensorboard": False},
}


@pytest.fixture(scope="module")
def gan(runs):
    (runs / "gan.yaml").write_text(yaml.safe_dump(GAN))
    experiment = dltrain.load(runs / "gan.yaml", [f"data.root={runs / 'images'}"])
    dltrain.train(experiment, run_dir=runs / "gan", quiet=True)
    return runs / "gan"


def cells(path, columns):
    """Return the images of a grid: 8 pixels are shown as 56, with 2 between."""
    sheet = np.asarray(Image.open(path))
    rows = (len(sheet) - 2) // 58
    assert sheet.shape == (58 * rows + 2, 58 * columns + 2, 3)
    return [
        sheet[2 + 58 * y : 58 * y + 58, 2 + 58 * x : 58 * x + 58]
        for y in range(rows)
        for x in range(columns)
    ]


def test_pictures_come_as_a_grid(call, gan, tmp_path):
    called = call("sample", gan, "-n", 12, "-o", tmp_path / "grid.png", "--seed", 3)
    assert (called.code, called.out) == (0, f"{tmp_path / 'grid.png'}\n")
    twelve = cells(tmp_path / "grid.png", 4)
    assert len({cell.tobytes() for cell in twelve}) == 12
    again = sample_images(gan, tmp_path / "again.png", num_samples=4, seed=3)
    assert again.count == 4
    first = cells(tmp_path / "again.png", 2)
    assert all(np.array_equal(a, b) for a, b in zip(twelve, first, strict=False))
    sample_images(gan, tmp_path / "other.png", num_samples=4, seed=4)
    assert not np.array_equal(cells(tmp_path / "other.png", 2)[0], first[0])


def test_without_a_file_the_grid_goes_into_the_run(call, gan):
    called = call("sample", gan, "--json")
    assert json.loads(called.out) == {"path": str(gan / "samples.png"), "count": 64}
    assert len(cells(gan / "samples.png", 8)) == 64


def test_rows_turn_from_one_picture_into_another(gan, tmp_path):
    sample_images(gan, tmp_path / "rows.png", num_samples=24, interpolate=True, seed=1)
    rows = cells(tmp_path / "rows.png", 8)
    sample_images(gan, tmp_path / "ends.png", num_samples=6, seed=1)
    ends = [cell.astype(int) for cell in cells(tmp_path / "ends.png", 3)]
    for row in range(3):
        line = [cell.astype(int) for cell in rows[8 * row : 8 * row + 8]]
        assert np.abs(line[0] - ends[2 * row]).max() <= 1
        assert np.abs(line[7] - ends[2 * row + 1]).max() <= 1
        steps = [np.abs(a - b).sum() for a, b in pairwise(line)]
        assert max(steps) < np.abs(line[0] - line[7]).sum()


@pytest.mark.parametrize(
    ("run", "words", "message"),
    [
        ("gan", ["--prompt", "x"], "--prompt does not apply: .* generates images"),
        ("gan", ["-o", "grid.gif"], "grid.gif: images are written to a .png file"),
        ("letters", ["-o", "grid.png"], "--output does not apply: .* generates text"),
        ("letters", ["--interpolate"], "--interpolate does not apply"),
    ],
)
def test_options_of_the_other_kind_are_refused(call, gan, runs, run, words, message):
    called = call("sample", runs / run, *words)
    assert called.code == 2
    assert re.search(message, called.err)


def test_a_grid_that_cannot_be_written_fails_in_a_line(call, gan, tmp_path):
    called = call("sample", gan, "-o", tmp_path / "nowhere" / "grid.png")
    assert called.code == 1
    path = tmp_path / "nowhere" / "grid.png"
    assert called.err == f"{path}: can't be written: No such file or directory\n"
