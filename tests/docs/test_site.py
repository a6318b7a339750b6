"""The documentation site, built like in CI."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import dltrain
from dltrain.cli import cli
from dltrain.commands.list import KINDS
from dltrain.config.plugins import register_builtins

pytest.importorskip("mkdocs", reason="mkdocs, of the extra `docs`, is not installed")

ROOT = Path(__file__).parents[2]
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""HTML elements that load a file, and their attribute with its URL."""

spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
docs_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs_pages)


class Page(HTMLParser):
    """Links, loaded files and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if attributes.get(LOADED.get(tag, "")):
            self.loads.append(attributes[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; `--strict` turns a warning of mkdocs into an error."""
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 40
    return found


def test_no_link_is_dead(site, pages):
    dead = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else {""}
            if not target.is_file() or unquote(parts.fragment) not in known | {"__top"}:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site, pages):
    elsewhere = re.compile(r"^(?:[a-z]+:)?//")
    loads = {(path.name, load) for path, page in pages.items() for load in page.loads}
    assert [load for load in loads if elsewhere.match(load[1])] == []
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import\s+|url\()[\"']?(?:https?:)?//", text), path
    diagrams = [path for path in pages if 'class="mermaid"' in path.read_text(encoding="utf-8")]
    assert diagrams == []  # the theme would load the library for them


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_has_an_anchor(kind, site, pages):
    register_builtins()
    path = site / "components" / kind / "index.html"
    # Other tests register further components.
    built_in = [c for c in KINDS[kind].values() if c.builder.__module__.startswith("dltrain.")]
    assert {component.name for component in built_in} <= pages[path].anchors
    text = path.read_text(encoding="utf-8")
    for component in built_in:
        for option in component.options:
            assert f"<td><code>{option.name}</code></td>" in text


@pytest.mark.parametrize("verb", cli.commands)
def test_every_command_has_a_page(verb, site, pages):
    assert f"dltrain-{verb}" in pages[site / "cli" / "index.html"].anchors
    page = site / docs_pages.VERB_PAGES.get(verb, f"{verb}.md").removesuffix(".md") / "index.html"
    assert f"dltrain {verb}" in page.read_text(encoding="utf-8")


def test_every_public_name_is_documented(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in dltrain.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_the_page_of_a_component_shows_its_docstring():
    page = docs_pages.pages()["components/models.md"]
    section = page.split("\n## cnn\n")[1].split("\n## ")[0]
    assert "\nmodel: cnn\n" in section
    assert (
        '| `activation` | sigmoid, tanh, relu, gelu or silu | `"relu"` | '
        "Nonlinearity of each stage. |" in section
    )
    (errors,) = [line for line in section.splitlines() if line.startswith("**Errors:** ")]
    assert errors.startswith("**Errors:** The samples are not images")
    assert "Example" not in errors
    assert "\n```pycon\n>>> import torch\n" in section
    assert "`configs/mnist_cnn.yaml`" in section
