"""Fingerprints of every source identify the samples of each split."""

from pathlib import Path

import pytest
from small_data import write_color_images, write_images, write_text

from dltrain import DATA, DataContext
from dltrain.config.plugins import register_builtins
from dltrain.rundir import provenance

TABLE = "x,y\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(40))
TEXTS = "t,y\n" + "".join(f"word{n} b,{n % 2}\n" for n in range(40))

SOURCES = {
    "csv": {"path": "table.csv", "target": "y"},
    "text_csv": {"path": "texts.csv", "text": ["t"], "label": "y"},
    "text_file": {"path": "text.txt", "window": 8},
    "idx": {"root": "images"},
    "image_folder": {"root": "color_images", "workers": 0},
    "breast_cancer": {},
    "toy_line": {},
    "toy_sine": {},
    "toy_blobs": {},
    "toy_spirals": {},
    "toy_text": {"samples": 200},
    "toy_digits": {"samples": 200},
}


@pytest.fixture
def fingerprint(tmp_path, monkeypatch):
    """Function that computes the fingerprint of a source."""
    monkeypatch.chdir(tmp_path)
    register_builtins()
    Path("table.csv").write_text(TABLE)
    Path("texts.csv").write_text(TEXTS)
    write_text(Path("text.txt"), 60)
    write_images(Path("images"), train=133, test=40, side=8, classes=3)
    write_color_images(Path("color_images"), 20)

    def make(name: str, seed: int = 0, **options) -> str:
        build = DATA[name].builder
        return provenance.fingerprint(
            build(DataContext(Path(), seed=seed), **{**SOURCES[name], **options})
        )

    return make


@pytest.mark.parametrize("name", SOURCES)
def test_other_splits_of_the_same_samples_change_the_fingerprint(fingerprint, name):
    options = {option.name for option in DATA[name].options}
    before = fingerprint(name)
    assert fingerprint(name) == before
    assert fingerprint(name, validation=11) != before
    if "test" in options:
        assert fingerprint(name, test=11) != before


@pytest.mark.parametrize("name", ["csv", "text_csv", "idx", "image_folder", "breast_cancer"])
def test_another_seed_of_the_splits_changes_the_fingerprint(fingerprint, name):
    assert fingerprint(name, seed=1, validation=11) != fingerprint(name, seed=2, validation=11)


def test_moving_an_image_to_another_split_changes_the_fingerprint(fingerprint):
    for split in ("train", "val", "test"):
        write_color_images(Path("split") / split, 6)
    before = fingerprint("image_folder", root="split")
    moved = next(Path("split/train").rglob("*.png"))
    moved.rename(Path("split/val") / moved.parent.name / "moved.png")
    assert fingerprint("image_folder", root="split") != before


def test_renaming_classes_changes_the_fingerprint(fingerprint):
    before = fingerprint("csv"), fingerprint("text_csv")
    Path("table.csv").write_text(TABLE.replace(",b", ",c"))
    Path("texts.csv").write_text(TEXTS.replace(",1\n", ",2\n"))
    assert fingerprint("csv") != before[0]
    assert fingerprint("text_csv") != before[1]
