"""What a mistake looks like to the one who made it."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_components import FULL_CONFIG

from dltrain.config import ConfigError, load
from dltrain.config.problems import suggestions

pytestmark = pytest.mark.usefixtures("components")


def problems(path, *overrides: str) -> list[str]:
    """The first line of each problem."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return [str(problem).splitlines()[0] for problem in caught.value.problems]


def test_an_error_reads_like_a_compiler(write):
    path = write(
        "name: mnist_cnn\nseed: 0\n\nmodel: {name: cnn, chanels: [32, 64], dropout: 0.25}\n"
        "data: digits\nloss: mse\noptimizer: {name: sgd, lr: 1.}\ntrain: {epochs: 1}\n",
        "configs/mnist_cnn.yaml",
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == (
        "configs/mnist_cnn.yaml:4:20: model.chanels: "
        "unknown option of model 'cnn'; did you mean 'channels'?\n"
        "    4 | model: {name: cnn, chanels: [32, 64], dropout: 0.25}\n"
        "      |                    ^^^^^^^"
    )
    assert caught.value.exit_code == 2


def test_all_errors_are_reported_at_once(write):
    write("model: {name: cnn, chanels: [1]}\nmodell: 1\n", "base.yaml")
    path = write("""\
extends: base.yaml
data: {name: digits, order: sorte, augment: {flip: 1, shfit: 2}}
loss: {name: cross_entrpy}
optimizer: {name: sgd}
metrics: [f1, {name: f1, average: macro}, acuracy, {avrage: micro}, 3]
train: {epochs: abc, steps: 1}
recording:
recording: {}
""")
    assert problems(path, "model.dropout=1", "train.batch_size=true", "checkpoint=x", "foo") == [
        "base.yaml:1:20: model.chanels: unknown option of model 'cnn'; did you mean 'channels'?",
        "base.yaml:2:1: modell: unknown key; did you mean 'model'?",
        "config.yaml:2:29: data.order: "
        "expected one of sorted, shuffled, got 'sorte'; did you mean 'sorted'?",
        "config.yaml:2:52: data.augment.flip: expected true or false, got 1",
        "config.yaml:2:55: data.augment.shfit: "
        "unknown option of 'data.augment'; did you mean 'shift'?",
        "config.yaml:3:14: loss.name: unknown loss 'cross_entrpy'; did you mean 'cross_entropy'?",
        "config.yaml:4:19: optimizer.lr: missing; expected a number above 0",
        "config.yaml:5:15: metrics.1: duplicate metric 'f1'",
        "config.yaml:5:43: metrics.2: unknown metric 'acuracy'; did you mean 'accuracy'?",
        "config.yaml:5:52: metrics.3: missing `name`; expected one of accuracy, f1",
        "config.yaml:5:69: metrics.4: unknown metric 3; expected one of accuracy, f1",
        "config.yaml:6:17: train.epochs: expected a whole number above 0, got 'abc'",
        "config.yaml:7:11: recording: expected a mapping, got nothing",
        "config.yaml:8:1: duplicate key 'recording', first on line 7",
        "command line: checkpoint=x: checkpoint: expected a mapping, got 'x'",
        "command line: foo: expected key=value, such as train.epochs=3",
        "command line: model.dropout=1: model.dropout: "
        "expected a number of at least 0 and below 1, got 1",
        "command line: train.batch_size=true: train.batch_size: "
        "expected a whole number above 0, got true",
    ]


def test_what_is_missing_is_named(write):
    assert problems(write("seed: 1")) == [
        "config.yaml:1:1: model: missing; expected one of cnn, mlp",
        "config.yaml:1:1: data: missing; expected one of digits",
        "config.yaml:1:1: loss: missing; expected one of cross_entropy, mse, mae",
        "config.yaml:1:1: optimizer: missing; expected one of sgd",
        "config.yaml:1:1: train: missing; expected `epochs` or `steps`",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed: expected a whole number of at least 0 and below 9223372036854775808, "),
        (
            "name=''",
            "name: expected text of one line, at most 1000 characters, without control characters",
        ),
        (
            'name="a\\nb"',
            "control characters, got 'a\\nb'",
        ),
        ("name=3", "got 3; put it in quotes to make it text"),
        ("model.channels=8", "model.channels: expected a list of values, each a whole number abo"),
        ("model.channels.1=x", "model.channels.1: expected a whole number above 0, got 'x'"),
        ("model.channels.7=1", "model.channels: expected a list of values, each a whole number"),
        ("model.dropout=no", "model.dropout: expected a number of at least 0 and below 1, got 'no"),
        ("model.dropout=true", "got true"),
        ("model.dropout='0.5'", "got '0.5'"),
        ("model.dropout=.nan", "got .nan, which is not finite"),
        ("optimizer.lr=1e400", "optimizer.lr: expected a number above 0, got 1e400, which is not "),
        ("optimizer.lr=1_000", "optimizer.lr: expected a number above 0, got '1_000'"),
        ("optimizer.momentum=-.inf", "optimizer.momentum: expected a number, got -.inf, which is"),
        ("model.kernel=3.5", "model.kernel: expected a list of a whole number above 0, a whole nu"),
        ("model.kernel=[3]", "or a whole number above 0, got [3]"),
        ("model.kernel=[3, x]", "model.kernel.1: expected a whole number above 0, got 'x'"),
        ("model.activation=3", "expected one of relu, gelu, tanh, got 3"),
        ("model.activation=ReLU", "got 'ReLU'; did you mean 'relu'?"),
        ("data.weights=balancd", "or balanced, got 'balancd'; did you mean 'balanced'?"),
        ("data.weights={a: x}", "data.weights.a: expected a number, got 'x'"),
        ("data.augment={}", "data.augment.shift: missing; expected a whole number above 0"),
        ("data.augment=3", "data.augment: expected a mapping, got 3"),
        ("data.label=on", None),
        (
            "data.label=12",
            "expected text, got 12; put it in quotes to make it text",
        ),
        ("data.root=3", "data.root: expected text, got 3; put it in quotes"),
        (
            "model.hidden=[1]",
            "unknown option of model 'cnn'; expected one of name, channels, activ",
        ),
        ("model={nam: cnn}", "model.nam: unknown option of model 'cnn'; did you mean 'name'?"),
        (
            "loss={nmae: mse}",
            "loss.nmae: unknown option of loss 'cross_entropy'; did you mean 'name'",
        ),
        ("loss.label_smoothing=1", "expected a number of at least 0 and below 1, got 1"),
        ("model=resnet", "model: unknown model 'resnet'; expected one of cnn, mlp"),
        ("model=[cnn]", "model: unknown model ['cnn']; expected one of cnn, mlp"),
        ("model={name: 3}", "model.name: unknown model 3; expected one of cnn, mlp"),
        ("metrics.0=1", "metrics: expected a list, each one of accuracy, f1, got {'0': 1}"),
        ("metrics=[1]", "metrics.0: unknown metric 1; did you mean 'f1'?"),
        ("metrics=f1", "metrics: expected a list, each one of accuracy, f1, got 'f1'"),
        ("train.steps=5", "train: `epochs` and `steps` exclude each other; set one to null"),
        ("train.epochs=null", "train: missing; expected `epochs` or `steps`"),
        (
            "train.evaluate=1 epochz",
            "expected a duration such as '1 epoch' or '500 steps', got '1 ep",
        ),
        ("train.device=cuad", "got 'cuad'; did you mean 'cuda'?"),
        ("train.compile=yes", "train.compile: expected true or false, got 'yes'"),
        ("early_stop={patience: 3}", "early_stop.monitor: missing; expected text"),
        ("early_stop=false", "early_stop: expected a mapping, got false"),
        ("checkpoint=null", "checkpoint: expected a mapping, got null"),
        ("recording.images=x", "recording.images: expected a whole number of at least 0, got 'x'"),
    ],
)
def test_messages_name_what_is_accepted(override, message, write):
    path = write(FULL_CONFIG)
    if message is None:
        load(path, [override])
    else:
        (first,) = problems(path, override)
        assert first.startswith(f"command line: {override}: ")
        assert message in first


def test_a_component_without_a_name(write):
    path = write(FULL_CONFIG.replace("data: digits", "data: {nmae: digits, root: x}"))
    assert problems(path) == ["config.yaml:2:8: data.nmae: unknown key; did you mean 'name'?"]


def test_a_misspelt_key_is_one_problem(write):
    path = write(FULL_CONFIG.replace("lr:", "rl:").replace("loss:", "los:"))
    assert problems(path) == [
        "config.yaml:3:1: los: unknown key; did you mean 'loss'?",
        "config.yaml:4:24: optimizer.rl: unknown option of optimizer 'sgd'; did you mean 'lr'?",
    ]


def test_long_lines_are_cut_around_the_place(write):
    path = write(FULL_CONFIG + f"metrics: [{'f1, ' * 200}zzz, {'f1, ' * 200}]")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = (p for p in caught.value.problems if "zzz" in p.message)
    _, source, carets = str(problem).splitlines()
    assert len(source) < 120
    assert source[carets.index("^") : carets.rindex("^") + 1] == "zzz"
    assert str(caught.value).endswith("more problems")


def test_tabs_in_the_source_line_keep_the_carets_in_place(write):
    with pytest.raises(ConfigError) as caught:
        load(write(FULL_CONFIG + "recording: {'a\tb': 1, imags: 1}"))
    assert str(caught.value).splitlines()[-2:] == [
        "    6 | recording: {'a\tb': 1, imags: 1}",
        "      |               \t       ^^^^^",
    ]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("me", ["mse", "mae"]),
        ("MSE", ["mse"]),
        ("mes", ["mse"]),
        ("msee", ["mse"]),
        ("mxe", ["mse", "mae"]),
        ("cros_entropi", ["cross_entropy"]),
        ("Mxe", ["mse", "mae"]),
        ("zzz", []),
        ("", []),
        ("m" * 100_000, []),
    ],
)
def test_suggestions(word, expected):
    assert suggestions(word, ["mse", "mae", "cross_entropy"]) == expected


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(FULL_CONFIG)), st.integers(0, 3), st.binary(max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_bytes_raise_nothing_else(edits, write):
    data = FULL_CONFIG.encode()
    for place, removed, added in edits:
        data = data[:place] + added + data[place + removed :]
    path = write(data)
    try:
        experiment = load(path)
    except ConfigError as error:
        refusal = str(error)
    else:
        refusal = "config.yaml"
        assert load(write(experiment.to_yaml())) == experiment
    assert refusal.startswith("config.yaml")
