"""Text on the command line: as it comes, and always the same for a seed."""

import json

import pytest
import yaml
from small_data import write_text
from small_runs import write_folder

import dltrain
from dltrain.commands.sample import sample, stream
from dltrain.errors import UsageError

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
