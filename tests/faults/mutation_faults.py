"""Commands on runs of every kind of data, and on a sweep, with mutated JSON and YAML."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import httpx
import yaml
from checkpoint_faults import in_this_process
from directory_faults import MUTATED, mutate, mutate_file, update_manifest
from PIL import Image
from processes import ChildProcess
from rows import Row
from small_data import write_text
from small_runs import CONFIG, write_folder

import dltrain
from dltrain.core.errors import DltrainError, escape_control_characters
from dltrain.training.trainer import Trainer

SHORT = {"steps": 6, "batch_size": 16, "evaluate": "3 steps", "device": "cpu"}
COMMON = {
    "optimizer": {"name": "adamw", "lr": 0.01},
    "train": SHORT,
    "checkpoint": {"every": "3 steps", "best": "val/loss"},
    "recording": {"log_every": 2, "tensorboard": False},
}
IMAGES = CONFIG | {"train": SHORT}
TABLE = COMMON | {
    "model": "linear",
    "data": {"name": "csv", "path": "table.csv", "target": "y"},
    "loss": "cross_entropy",
    "metrics": ["accuracy", "f1"],
}
TEXTS = COMMON | {
    "model": {"name": "text_lstm", "hidden_size": 4},
    "data": {"name": "text_csv", "path": "texts.tsv", "text": ["text"], "label": "label"},
    "loss": "cross_entropy",
}
WRITER = COMMON | {
    "task": "language_model",
    "model": {"name": "text_generator", "hidden_size": 4},
    "data": {"name": "text_file", "path": "text.txt", "window": 8},
    "loss": "cross_entropy",
}
VALUES = TABLE | {
    "data": {"name": "csv", "path": "table.csv", "target": "x", "target_kind": "value"},
    "loss": "mse",
    "metrics": [],
}
SEQUENCES = COMMON | {
    "task": "seq2seq",
    "model": {"name": "seq2seq_lstm", "hidden_size": 4},
    "data": {"name": "toy_digits", "samples": 60},
    "loss": "cross_entropy",
}
CODES = COMMON | {
    "task": "autoencoder",
    "model": {"name": "autoencoder", "variational": True},
    "data": IMAGES["data"],
    "loss": "mse",
}
SPACE = {
    "metric": "val/loss",
    "trials": 2,
    "space": {"optimizer.lr": {"float": [1e-3, 1e-1], "log": True}},
}
"""Search space of a sweep. Its first trial is recorded as started and not finished."""

KINDS: dict[str, tuple[dict, list[list[str]]]] = {
    "images": (IMAGES, [["predict", "run", "some.png"]]),
    "table": (TABLE, [["predict", "run", "table.csv"]]),
    "texts": (TEXTS, [["predict", "run", "to be", "texts.tsv"]]),
    "writer": (WRITER, [["sample", "run", "--tokens", "4", "--prompt", "to"]]),
    "values": (VALUES, [["predict", "run", "table.csv"]]),
    "sequences": (SEQUENCES, [["predict", "run", "123"]]),
    "codes": (CODES, [["sample", "run", "-n", "4"]]),
}
READERS = [
    ["evaluate", "run", "--json"],
    ["export", "run", "--to", "safetensors"],
    ["serve", "run", "--port", "0"],
    ["report", "run", "good"],
    ["compare", "run", "good", "--html"],
    ["runs", ".", "--json"],
]
MUTATIONS_PER_TRIAL = 3
PLACES = [name.replace("step-0000000010", "step-0000000006") for name in MUTATED]
PLACES += ["checkpoints/latest.json"]


def write_data(folder: Path) -> None:
    """Write data of all kinds."""
    write_folder(folder)
    Image.new("L", (8, 8)).save(folder / "some.png")
    rows = [f"{n % 7},{'pq'[n % 2]},{'abc'[n % 3]}" for n in range(60)]
    (folder / "table.csv").write_text("\n".join(["x,k,y", *rows]) + "\n")
    rows = [f"to be {'art' if n % 2 else 'king'} {n}\t{n % 2}" for n in range(60)]
    (folder / "texts.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    write_text(folder / "text.txt", 60)


def mutated_runs(number: int, folder: Path) -> None:
    """Mutate a run or a sweep; each command must report an error or work."""
    write_data(folder)
    kind = ["sweep", *KINDS][number % (len(KINDS) + 1)]
    work = _mutate_sweep if kind == "sweep" else _mutate_run
    child = ChildProcess("child", folder, work, number, kind)
    assert child.wait() == 0, child.err
    broken = json.loads(child.out.splitlines()[-1])
    assert not broken, "\n".join(broken)


def _mutate_run(number: int, kind: str) -> None:
    config, commands = KINDS[kind]
    Path("config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = in_this_process("train", "config.yaml", "--run-dir", "good", "--quiet")
    assert code == 0, err
    draw, broken = random.Random(number), []
    for _ in range(MUTATIONS_PER_TRIAL):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("good", "run")
        place = Path("run", draw.choice(PLACES))
        damage(draw, place)
        content = place.read_bytes()[:2000]
        for words in [*commands, *READERS]:
            broken += _failures(f"{place}: {words[0]}", content, lambda words=words: _run(*words))
        Path("run/summary.json").unlink(missing_ok=True)
        for function in (_keep_best, _resume_in_notebook):
            broken += _failures(f"{place}: {function.__name__}", content, function)
    print(json.dumps(broken))


def damage(draw: random.Random, path: Path) -> None:
    """Mutate the bytes or the values of a file, preferably those of a checkpoint's data spec."""
    if draw.random() < 0.3:
        scramble(draw, path)
    elif path.name == "state.json" and draw.random() < 0.7:
        content = json.loads(path.read_text())
        content["spec"] = mutate(draw, content["spec"])
        path.write_text(json.dumps(content))
        update_manifest(path)
    else:
        mutate_file(draw, path)


def scramble(draw: random.Random, path: Path) -> None:
    """Replace, duplicate or delete bytes of a file."""
    content = path.read_bytes()
    at, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    stop = min(stop, at + 200)
    new = draw.choice(
        [b"", content[at:stop] * 2, draw.randbytes(3), b"9", b"\x1b[31m", b'"', b"- "]
    )
    path.write_bytes(content[:at] + new + content[stop:])
    if path.name == "state.json":
        update_manifest(path)


def _mutate_sweep(number: int, _kind: str) -> None:
    from dltrain.commands import sweep

    Path("config.yaml").write_text(yaml.safe_dump(TABLE))
    Path("space.yaml").write_text(yaml.safe_dump(SPACE))
    words = ["sweep", "config.yaml", "space.yaml", "--run-dir"]
    with sweep._search(
        sweep._plan(Path("config.yaml"), Path("space.yaml"), []), Path("good"), Path("x"), True
    ) as search:
        taken = search.claim()
        assert taken is not None
        sweep._summary(search, taken, [])
    draw, broken = random.Random(number), []
    for _ in range(MUTATIONS_PER_TRIAL):
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("good", "run")
        trial = Path("run/trials/0000")
        name = draw.choice(PLACES)
        damage(draw, trial / name)
        content = (trial / name).read_bytes()[:2000]
        if draw.random() < 0.5:  # so that it is resumed
            (trial / "summary.json").unlink(missing_ok=True)
        for _ in range(2):
            label = f"{name}: sweep"
            broken += _failures(label, content, lambda: _run(*words, "run", "--quiet"))
            broken += _failures(f"{name}: runs", content, lambda: _run("runs", "run/trials"))
    print(json.dumps(broken))


def _failures(label: str, content: bytes, call: Callable[[], str]) -> list[str]:
    """Return a description if a command fails with a traceback or prints control characters."""
    try:
        output = call()
    except Exception:
        return [f"{label}: {traceback.format_exc()}\n{content!r}"]
    if "Traceback" in output or {"\x1b", "\u202e"} & set(output):
        return [f"{label}: {output}\n{content!r}"]
    return []


def _run(*words: str) -> str:
    with mock.patch("uvicorn.Server.run", _browse_instead_of_serving), _few_steps():
        code, out, err = in_this_process(*words)
    assert code in (0, 1, 2)
    assert code == 0 or err.strip()
    return out + err


def _few_steps() -> AbstractContextManager[object]:
    """Limit training to 30 steps: a mutated config may validly request 10^18."""
    fit = Trainer.fit

    def fit_briefly(trainer: Trainer) -> None:
        trainer.total_steps = min(trainer.total_steps, 30)
        fit(trainer)

    return mock.patch.object(Trainer, "fit", fit_briefly)


def _browse_instead_of_serving(server, sockets) -> None:
    """Send the requests of a browser instead of waiting for requests."""

    async def browse() -> None:
        app = server.config.app
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
        ):
            for path in ("/", "/docs", "/healthz"):
                assert (await client.get(path)).status_code == 200
            description = (await client.get("/openapi.json")).json()
            body = description["paths"]["/predict"]["post"]["requestBody"]["content"]
            example = body["application/json"]["example"]
            assert (await client.post("/predict", json=example)).status_code in (200, 422)

    asyncio.run(browse())


def _keep_best() -> str:
    from dltrain.commands.rm import plan

    try:
        return str(plan([Path()], keep_best=True).keep)
    except DltrainError as error:
        return str(error)


def _resume_in_notebook() -> str:
    """Resume the run in a simulated notebook, and return what it displays."""
    shown, out = StringIO(), StringIO()
    place = mock.Mock()
    place.display = place.update = lambda html: shown.write(html.data)
    with (
        mock.patch("dltrain.commands.fit.in_kernel", return_value=True),
        _few_steps(),
        mock.patch("IPython.display.DisplayHandle", return_value=place),
        redirect_stdout(out),
    ):
        try:
            dltrain.resume("run")
            shown.write(repr(dltrain.Run.load("run").metrics))
        except DltrainError as error:
            # A notebook displays the message of the error.
            return shown.getvalue() + escape_control_characters(str(error))
    return shown.getvalue() + out.getvalue()


ROWS: list[Row] = [
    Row(
        name="JSON and YAML of runs of every kind of data, and of a sweep, mutated",
        promise="export, serve, a notebook, sweep and other commands report an error or work",
        trial=mutated_runs,
        pr=5,
        release=200,
        cases=MUTATIONS_PER_TRIAL * (len(READERS) + 3),
    ),
]
