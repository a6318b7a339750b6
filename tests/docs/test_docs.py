"""The documentation agrees with the code."""

import re
from pathlib import Path

import pytest
import yaml

from dltrain.commands.list import SECTIONS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_config_in_the_readme_equals_the_shipped_one():
    shown = next(b for b in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "mnist_cnn" in b)
    shipped = (ROOT / "configs" / "mnist_cnn.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown) == yaml.safe_load(shipped)


def test_the_readmes_model_is_under_15_lines_and_trains(experiment, tmp_path, monkeypatch):
    import dltrain
    from dltrain.config.plugins import load_plugin

    code = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "pyramid" in b)
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    plugin = tmp_path / "my_models.py"
    plugin.write_text(code)
    load_plugin(plugin)
    config = {
        "model": {"name": "pyramid", "widths": [8, 4]},
        "data": "toy_spirals",
        "loss": "cross_entropy",
        "optimizer": "adamw",
        "train": {"epochs": 1},
    }
    summary = dltrain.train(experiment(config), run_dir=tmp_path / "run", quiet=True)
    assert summary.status == "done"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_is_documented(section):
    text = CONFIGURATION.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for option in SECTIONS[section].options:
        assert f"`{option.name}`" in text


GENERATED = re.compile(r"(components/\w+|cli|security|contributing|changelog)\.md")
"""Pages that are generated when the site is built; tests/docs/test_site.py checks their links."""


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_link_targets_exist(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    for link in links:
        target = (page.parent / link).resolve()
        generated = target.is_relative_to(ROOT / "docs") and GENERATED.fullmatch(
            target.relative_to(ROOT / "docs").as_posix()
        )
        assert target.exists() or generated, f"{page.name} links to {link}"
