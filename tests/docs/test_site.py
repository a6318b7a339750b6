"""The documentation site, built as CI builds it."""

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
"""Elements with which a page loads something, and where they name it."""

spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
docs_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs_pages)


class Page(HTMLParser):
    """What a page links to, what it loads, and which places in it have a name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if given.get(LOADED.get(tag, "")):
            self.loads.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning of mkdocs would end the build."""
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
            known = pages[target].places if target in pages else {""}
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
    drawn = [path for path in pages if 'class="mermaid"' in path.read_text(encoding="utf-8")]
    assert drawn == []  # the theme would fetch what draws it


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_has_its_place(kind, site, pages):
    register_builtins()
    path = site / "components" / kind / "index.html"
    # Other tests register components of their own beside the built-in ones.
    built_in = [c for c in KINDS[kind].values() if c.builder.__module__.startswith("dltrain.")]
    assert {component.name for component in built_in} <= pages[path].places
    text = path.read_text(encoding="utf-8")
    for component in built_in:
        for option in component.options:
            assert f"<td><code>{option.name}</code></td>" in text


@pytest.mark.parametrize("verb", cli.commands)
def test_every_verb_has_its_place(verb, site, pages):
    assert f"dltrain-{verb}" in pages[site / "cli" / "index.html"].places
    page = site / docs_pages.VERB_PAGES.get(verb, f"{verb}.md").removesuffix(".md") / "index.html"
    assert f"dltrain {verb}" in page.read_text(encoding="utf-8")


def test_every_public_name_is_explained(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    missing = [name for name in dltrain.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def test_a_component_s_page_shows_what_the_code_says():
    page = docs_pages.pages()["components/models.md"]
    section = page.split("\n## cnn\n")[1].split("\n## ")[0]
    assert "\nmodel: cnn\n" in section
    assert (
        '| `activation` | sigmoid, tanh, relu, gelu or silu | `"relu"` | '
        "Nonlinearity of each stage. |" in section
    )
    assert "**Refused where:** The samples are not pictures" in section
    assert "`configs/mnist_cnn.yaml`" in section
