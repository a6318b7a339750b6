"""The commands of the quick start, the recipes and the pages on extending run on small data."""

import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from processes import ChildProcess, command_line
from small_data import write_images, write_text

from dltrain.config import shipped

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
EXTENDING = sorted((ROOT / "docs" / "extend").glob("*.md"))
PAGES = [ROOT / "docs" / "quick-start.md", *RECIPES, *EXTENDING]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
SKIPPED = ("python3 -m venv", ". .venv", "pip install", "tensorboard ", "torchrun --nnodes")
"""Prefixes of commands that create an environment, do not end, or need a second machine."""
SEPARATE_PROCESS = ("--plugin", "--processes")
"""Options of commands that need a separate process; other commands run in this one."""
SMALLER_SIZES = {"validation: 5000": "validation: 60", "samples: 3000": "samples: 300"}
"""Replacements in the configs."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder with all files that the pages mention, with small data and splits."""
    (tmp_path / "configs").mkdir()
    for path in (ROOT / "configs").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        for large, small in SMALLER_SIZES.items():
            text = text.replace(large, small)
        (tmp_path / "configs" / path.name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(
        shipped, "_PACKAGE", tmp_path / "dltrain"
    )  # bare names refer to these configs
    write_images(tmp_path / "data" / "MNIST" / "raw", train=300, test=60, side=28, classes=10)
    Image.new("L", (28, 28), 90).save(tmp_path / "digit.png")
    draw = random.Random(0)
    for color, brightest in (("blue", (60, 60, 255)), ("red", (255, 60, 60))):
        images = tmp_path / "my_images" / color
        images.mkdir(parents=True)
        for number in range(20):
            pixel = tuple(draw.randint(value // 2, value) for value in brightest)
            Image.new("RGB", (40, 36), pixel).save(images / f"{number}.png")
    houses = [(draw.randint(40, 200), draw.choice(["old", "new"])) for _ in range(80)]
    rows = [f"{area},{age},{3 * area + draw.random():.2f}" for area, age in houses]
    (tmp_path / "houses.csv").write_text("\n".join(["area,age,price", *rows, ""]))
    (tmp_path / "new_houses.csv").write_text("area,age\n100,old\n")
    words = [draw.choice(["a fine film", "a dull film", "dull", "fine"]) for _ in range(80)]
    reviews = [f"{text} {number},{5 if 'fine' in text else 1}" for number, text in enumerate(words)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars", *reviews, ""]))
    write_text(tmp_path / "novel.txt", lines=200)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, module in (("dltrain", "dltrain"), ("torchrun", "torch.distributed.run")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (commands / name).chmod(0o755)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DLTRAIN_DATA", "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands_of(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith(SKIPPED)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_commands_of_a_page_run(page, folder, call):
    for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if title:
            (folder / title).write_text(text, encoding="utf-8")
        for line in commands_of(text) if language == "sh" else ():
            words = shlex.split(line.replace("--nproc-per-node 8", "--nproc-per-node 2"))
            if words[0] in ("torchrun", "bash", "python"):
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
                continue
            if any(word in words for word in SEPARATE_PROCESS):
                process = ChildProcess("command", folder, command_line, *words[1:])
                assert process.wait() == 0, f"{line}\n{process.out}\n{process.err}"
                continue
            output = words[words.index(">") + 1] if ">" in words else None
            words = words[: words.index(">")] if output else words
            assert words[0] == "dltrain", f"{line}: unexpected command"
            ended = call(*words[1:])
            assert ended.code == 0, f"{line}\n{ended.err}"
            if output:
                (folder / output).write_text(ended.out, encoding="utf-8")


@pytest.mark.parametrize("pages", [RECIPES, EXTENDING], ids=["recipes", "extend"])
def test_the_index_of_a_folder_lists_all_its_pages(pages):
    listed = (pages[0].parent / "README.md").read_text(encoding="utf-8")
    for page in pages:
        assert page.name == "README.md" or f"]({page.name})" in listed
