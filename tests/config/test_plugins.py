"""A user's own Python, and installed packages'."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from small_components import FULL_CONFIG, fill

from dltrain.config import ConfigError, load, plugins
from dltrain.core.errors import UsageError
from dltrain.core.registry import MODELS, REGISTRIES

PLUGIN = """\
from __future__ import annotations
from dltrain.core.registry import MODELS

@MODELS.register
def mine(spec: object, /, *, size: int = 3) -> object:
    '''My own.

    Args:
        size: Of it.
    '''
    return size
"""


@pytest.mark.usefixtures("components")
def test_a_file_registers_its_components_once(write):
    path = write(PLUGIN, "mine.py")
    text = FULL_CONFIG.replace("{name: cnn, channels: [8, 16]}", "mine")
    with pytest.raises(ConfigError, match="unknown model 'mine'"):
        load(write(text))
    plugins.load_plugin(path)
    plugins.load_plugin(path.resolve())
    experiment = load(write(text), ["model.size=4"])
    assert experiment.model.build(None) == 4


@pytest.mark.usefixtures("components")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "plugin mine.py: no such file"),
        ("import no_such_thing", "plugin mine.py:1: ModuleNotFoundError: No module named 'no_suc"),
        ("x = 1\ny = (", "plugin mine.py:2: SyntaxError: '(' was never closed"),
        ("\n\ndef f():\n    1 / 0\nf()", "plugin mine.py:4: ZeroDivisionError: division by zero"),
        (
            PLUGIN.replace("def mine", "def cnn"),
            "plugin mine.py:4: ValueError: there is a model named 'cnn' already",
        ),
        (
            PLUGIN.replace("size: int = 3", "size=3"),
            "plugin mine.py:4: TypeError: option 'size' of 'mine' has no type annotation",
        ),
    ],
)
def test_a_file_that_fails_is_named_with_the_line(text, message, write):
    path = write(text or "", "mine.py")
    if text is None:
        path.unlink()
    for _ in range(2):  # a failed import is not taken for done
        with pytest.raises(UsageError) as caught:
            plugins.load_plugin(path)
        assert str(caught.value).startswith(message)
        assert len(str(caught.value).splitlines()) == 1


def test_a_taken_name_is_the_plugins_error_whichever_comes_first(write, monkeypatch):
    for registry in REGISTRIES.values():
        monkeypatch.setattr(registry, "_components", {})
    monkeypatch.setattr(plugins, "register_builtins", lambda: MODELS or fill(REGISTRIES))
    path = write(PLUGIN.replace("def mine", "def cnn"), "mine.py")
    with pytest.raises(UsageError, match="there is a model named 'cnn' already"):
        plugins.load_plugin(path)


def test_built_in_components_are_registered_by_import():
    plugins.register_builtins()
    before = {kind: list(registry) for kind, registry in REGISTRIES.items()}
    assert "cnn" in MODELS
    plugins.register_builtins()
    assert {kind: list(registry) for kind, registry in REGISTRIES.items()} == before


@pytest.fixture
def entry_point(write, monkeypatch):
    """Pretends that an installed package offers a module with this text."""
    plugins.load_entry_points.cache_clear()

    def offer(text: str) -> None:
        write(text, "offered_plugin.py")
        monkeypatch.syspath_prepend(".")
        monkeypatch.delitem(__import__("sys").modules, "offered_plugin", raising=False)
        point = EntryPoint("offered", "offered_plugin", plugins.ENTRY_POINT_GROUP)
        monkeypatch.setattr(
            plugins, "entry_points", lambda group: [point] if group == point.group else []
        )

    yield offer
    plugins.load_entry_points.cache_clear()


@pytest.mark.usefixtures("components")
def test_installed_packages_offer_components(entry_point, write):
    entry_point(PLUGIN)
    text = FULL_CONFIG.replace("{name: cnn, channels: [8, 16]}", "mine")
    assert load(write(text)).model.name == "mine"
    assert load(write(text)).model.name == "mine"


@pytest.mark.usefixtures("components")
def test_an_installed_package_that_fails_is_named(entry_point, write):
    entry_point("import no_such_thing")
    with pytest.raises(UsageError, match="plugin 'offered' of package offered_plugin: ModuleNotF"):
        load(write(FULL_CONFIG))
