"""CSV tables: standardized with training rows only, and validated strictly."""

import pytest
import torch
from samples import gather

from dltrain.core.errors import DataError, OptionError


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="t.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_text


def rows(num=40, seed=0):
    """Return a table with two columns of numbers, one of colors, a class and a value."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.randn(num, 2, generator=random) * torch.tensor([3.0, 0.1]) + 7
    lines = ["width,height,colour,kind,price"]
    for number, (width, height) in enumerate(numbers.tolist()):
        color = ("red", "green", "blue")[number % 3]
        kind = "ab"[number % 2]
        lines.append(f"{width:.6f},{height:.6f},{color},{kind},{10 * width + number:.6f}")
    return "\n".join(lines) + "\n"


def test_features_are_standardized_as_in_scikit_learn(build, write):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    raw = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([3.0, 0.1]) + 7
    lines = [f"{x!r},{y!r},{row}" for row, (x, y) in enumerate(raw.tolist())]
    path = write("\n".join(["x,y,row", *lines]))
    data = build("csv", path=path, target="row", validation=8)
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 8, 4)
    train = gather(data.train)[1].flatten().long()  # the target is the number of the row
    scaler = preprocessing.StandardScaler().fit(raw[train].numpy())
    for split in (data.train, data.validation, data.test):
        inputs, row, _ = gather(split)
        expected = torch.from_numpy(scaler.transform(raw[row.flatten().long()].numpy()))
        assert torch.allclose(inputs.double(), expected, atol=1e-6)


def test_categories_are_one_hot(build, write):
    data = build("csv", path=write(rows()), target="kind", validation=0, test=0)
    names = [column.name for column in data.spec.inputs.columns]
    assert names == ["width", "height", "colour", "price"]
    assert data.spec.inputs.columns[2].categories == ("blue", "green", "red")
    assert data.spec.input_shape == (6,)
    colours = gather(data.train)[0][:, 2:5]
    expected = [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert colours.tolist() == [expected[number % 3] for number in range(40)]
    assert data.spec.class_names == ("a", "b")
    assert gather(data.train)[1].tolist() == [0, 1] * 20


def test_categories_come_from_the_training_rows(build, write):
    # Every row has a unique category; categories of the other splits are all zeros.
    data = build(
        "csv", path=write("x,y\n" + "".join(f"c{n},{n / 2}\n" for n in range(40))), target="y"
    )
    assert data.spec.input_shape == (len(data.train),) == (32,)
    assert gather(data.train)[0].sum(1).tolist() == [1.0] * 32
    assert gather(data.validation)[0].abs().sum() == 0
    assert gather(data.test)[0].abs().sum() == 0


def test_numbers_are_regression_targets(build, write):
    path = write(rows())
    data = build("csv", path=path, target="price", validation=0, test=0)
    targets = gather(data.train)[1]
    assert data.spec.class_names == ()
    assert data.spec.num_outputs == 1
    assert (data.spec.target_mean, data.spec.target_std) == (0.0, 1.0)
    written = [float(line.split(",")[-1]) for line in rows().splitlines()[1:]]
    assert torch.allclose(targets, torch.tensor(written)[:, None])


def test_regression_targets_can_be_standardized(build, write):
    data = build("csv", path=write(rows()), target="price", standardise_target=True)
    targets = gather(data.train)[1]
    assert targets.mean().item() == pytest.approx(0, abs=1e-5)
    assert targets.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    plain = build("csv", path=write(rows()), target="price")
    expected = gather(plain.test)[1]
    restored = gather(data.test)[1] * data.spec.target_std + data.spec.target_mean
    assert torch.allclose(restored, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["3", "10", "3.0"], ("3", "3.0", "10")),
        (["00501", "501", "10115"], ("00501", "501", "10115")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["1e3", "1000", "999"], ("999", "1000", "1e3")),
        (["+1", "1", "-1"], ("-1", "+1", "1")),
        (["0x1f", "1_000", "31"], ("0x1f", "1_000", "31")),
        (["é", "e\u0301"], ("e\u0301", "é")),
        ([f"{n:05}" for n in range(30)], tuple(f"{n:05}" for n in range(30))),
        (["no", "yes"], ("no", "yes")),
        (["1000002", "1000001"], ("1000001", "1000002")),
        (["1", "x"], ("1", "x")),
        (["0.5", "1"], ()),
        ([str(n) for n in range(21)], ()),
    ],
)
def test_the_kind_of_target_is_inferred(build, write, cells, names):
    text = "x,y\n" + "".join(f"{n},{cells[n % len(cells)]}\n" for n in range(42))
    assert (
        build("csv", path=write(text), target="y", test=0, validation=0).spec.class_names == names
    )


def test_the_kind_of_target_can_be_set(build, write):
    path = write("x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40)))
    assert build("csv", path=path, target="y").spec.class_names == ("0", "1")
    data = build("csv", path=path, target="y", target_kind="value")
    assert data.spec.class_names == ()
    assert gather(data.train)[1].unique().tolist() == [0.0, 1.0]


def test_class_names_may_look_like_numbers_outside_the_float_range(build, write):
    path = write("x,y\n" + "".join(f"{n},{('12e400', '3e500', '7')[n % 3]}\n" for n in range(40)))
    with pytest.raises(
        DataError,
        match=r"t\.csv:2: expected a number within the range of float64 in 'y', got '12e400'",
    ):
        build("csv", path=path, target="y")
    data = build("csv", path=path, target="y", target_kind="class")
    assert data.spec.class_names == ("7", "12e400", "3e500")


def test_a_constant_column_is_only_centered(build, write):
    text = "x,c,y\n" + "".join(f"{n},0.1,{n % 2}\n" for n in range(40))
    data = build("csv", path=write(text), target="y")
    assert gather(data.train)[0][:, 1].tolist() == [0.0] * len(data.train)


def test_the_test_split_does_not_depend_on_the_seed(build, write):
    path = write(rows())
    options = {"path": path, "target": "price", "features": ("colour",), "test": 10}
    first, second = (build("csv", seed=seed, **options) for seed in (0, 1))
    assert torch.equal(gather(first.test)[1], gather(second.test)[1])
    assert not torch.equal(gather(first.train)[1], gather(second.train)[1])
    assert first.fingerprint == second.fingerprint
    assert first.split_fingerprint != second.split_fingerprint


def test_delimiters_and_byte_order_marks(build, write):
    text = "\ufeffx;y\n" + "".join(f' {n};"a;b"\n\n{n};c\n' for n in range(20))
    data = build("csv", path=write(text), target="y", delimiter=";")
    assert data.spec.class_names == ("a;b", "c")


def test_relative_paths_may_refer_to_the_data_folder(build, write, tmp_path):
    write(rows(), "mine.csv")
    data = build("csv", path="mine.csv", target="kind")
    assert data.source == str(tmp_path / "mine.csv")


def test_a_typo_in_a_numeric_column_is_reported(build, write):
    text = "x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40)).replace("17,1", "1o7,1")
    build("csv", path=write(text), target="y")
    assert any("t.csv:19: 'x' is '1o7'" in line for line in build.warnings)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n1\n", r"t\.csv:3: 1 cells, the header has 2"),
        ("x,y\n1,2\n1,2,3\n", r"t\.csv:3: 3 cells"),
        ("x,y\n1,2\n,3\n", r"t\.csv:3: 'x' is empty"),
        ("x,y\n1,2\nNaN,3\n", r"t\.csv:3: 'x' is NaN"),
        ("x,y\n1,2\n1,inf\n", r"t\.csv:3: 'y' is inf"),
        ("x,y\n1,2\n?,3\n", r"t\.csv:3: 'x' is \?"),
        ("x,x\n1,2\n", r"t\.csv:1: .*column names"),
        ("x,\n1,2\n", r"t\.csv:1: .*column names"),
        ("", r"t\.csv:1: .*column names"),
        ("x,y\n", r"t\.csv: has no rows"),
        (
            'x,y\n1,"2\n',
            r"t\.csv:2: the quoted cell \(\"\) never ends; it is a table with quote: null",
        ),
        ("x,z\n1,2\n", r"t\.csv: has no column 'y'; it has x, z"),
        ("y\n1\n", r"none"),
        ("x,y\n1,a\n2,a\n", r"t\.csv: expected two or more classes in 'y', got 'a'"),
    ],
)
def test_errors_name_file_and_line(build, write, text, words):
    with pytest.raises((DataError, OptionError), match=words):
        build("csv", path=write(text), target="y", test=0, validation=0)


def test_wrong_options_are_named(build, write, tmp_path):
    path = write(rows())
    with pytest.raises(DataError, match="has no column 'depth'"):
        build("csv", path=path, target="kind", features=("width", "depth"))
    with pytest.raises(OptionError, match=r"width, kind"):
        build("csv", path=path, target="kind", features=("width", "kind"))
    with pytest.raises(DataError, match=r"t\.csv:2: expected a number in 'kind', got 'a'"):
        build("csv", path=path, target="kind", target_kind="value")
    with pytest.raises(OptionError, match=r"expected numeric values in .*, got classes"):
        build("csv", path=path, target="kind", standardise_target=True)
    with pytest.raises(DataError, match=r"no\.csv: can't be read"):
        build("csv", path=str(tmp_path / "no.csv"), target="kind")
    (tmp_path / "latin.csv").write_bytes("x,y\nä,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv:2: is not UTF-8"):
        build("csv", path=str(tmp_path / "latin.csv"), target="y")


def test_breast_cancer_is_scikit_learns(build):
    datasets = pytest.importorskip("sklearn.datasets")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    theirs = datasets.load_breast_cancer()
    data = build("breast_cancer", test=0)
    assert data.spec.class_names == tuple(theirs.target_names)
    assert [c.name for c in data.spec.inputs.columns] == list(theirs.feature_names)
    inputs, targets, _ = gather(data.train, 100)
    expected = preprocessing.StandardScaler().fit_transform(theirs.data)
    assert torch.allclose(inputs.double(), torch.from_numpy(expected), atol=1e-5)
    assert targets.tolist() == theirs.target.tolist()
    assert data.spec.class_counts == (212, 357)


def test_breast_cancer_splits(build):
    data = build("breast_cancer", validation=0.2)
    assert len(data.train) + len(data.validation) + len(data.test) == 569
    assert torch.bincount(gather(data.test)[1]).tolist() == [42, 72]  # 114 of 212 : 357
    assert gather(data.train)[0].mean(0).abs().max() < 1e-5


@pytest.mark.parametrize("cell", ["", "nan", "NA", "?", "inf", "1e999", "\u202e", "x" * 200_000])
def test_cells_of_columns_that_are_not_used_do_not_matter(build, write, cell):
    lines = [f"{n},{cell if n % 3 else 'n'},{n % 2}" for n in range(40)]
    path = write("\n".join(["x,note,y", *lines]))
    data = build("csv", path=path, target="y", features=("x",))
    plain = write("x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40)), "plain.csv")
    assert torch.equal(gather(data.train)[0], gather(build("csv", path=plain, target="y").train)[0])
    assert build.warnings == []


def test_columns_that_are_not_used_may_lack_a_name(build, write):
    path = write(",x,x,a,y\n" + "".join(f"{n},1,2,{n},{n % 2}\n" for n in range(40)))
    data = build("csv", path=path, target="y", features=("a",))
    assert [column.name for column in data.spec.inputs.columns] == ["a"]
    with pytest.raises(DataError, match=r"t\.csv:1: column names must be non-empty and unique"):
        build("csv", path=path, target="y")
    with pytest.raises(DataError, match=r"t\.csv:1: several columns have the name 'x'"):
        build("csv", path=path, target="y", features=("x",))


def test_the_delimiter_follows_the_files_name(build, write):
    text = "x\ty\n" + "".join(f'"{n}\t{n % 2}\n' for n in range(40))
    data = build("csv", path=write(text, "t.tsv"), target="y", validation=0, test=0)
    assert data.spec.inputs.columns[0].categories[:2] == ('"0', '"1')


def test_quotes_can_be_characters(build, write):
    path = write("x,y\n" + "".join(f'"{n % 4},{n % 2}\n' for n in range(40)))
    with pytest.raises(DataError, match=r"t\.csv:2: .*quote: null"):
        build("csv", path=path, target="y")
    data = build("csv", path=path, target="y", quote=None)
    assert data.spec.inputs.columns[0].categories == ('"0', '"1', '"2', '"3')
    assert data.spec.inputs.quote is None


@pytest.mark.parametrize(
    ("cells", "categories", "warning"),
    [
        (
            ["501", "00501"],
            ("00501", "501"),
            "t.csv:3: 'x' is '00501', a number with leading zeros",
        ),
        (
            [str(2**53), str(2**53 + 1)],
            (str(2**53), str(2**53 + 1)),
            "t.csv:3: 'x' is '900719925474",
        ),
        (["1", "1.0", "x"], ("1", "1.0", "x"), "t.csv:3: 'x' is '1.0', and '1' in"),
        (["1", "1.0", "2"], (), None),
        (["1700000000000000000", "1700000000000001024"], (), None),
        (["0", "0.5", "-0.25"], (), None),
    ],
)
def test_categories_keep_their_spelling(build, write, cells, categories, warning):
    lines = [f"{cells[n % len(cells)]},{n % 2}" for n in range(36)]
    path = write("\n".join(["x,y", *lines]))
    data = build("csv", path=path, target="y", validation=0, test=0)
    (column,) = data.spec.inputs.columns
    assert column.categories == categories
    assert any(warning in line for line in build.warnings) if warning else build.warnings == []
    if categories:
        order = [categories[int(row.argmax())] for row in gather(data.train)[0]]
        assert order == [cells[n % len(cells)] for n in range(36)]


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0"), ("00501", "501"), ("1e3", "1000"), ("-0", "0")]
)
def test_class_names_that_are_equal_numbers_are_reported_with_their_lines(build, write, one, other):
    lines = [f"{n},{other if n % 7 == 3 else one}" for n in range(40)]
    path = write("\n".join(["x,y", *lines]))
    data = build("csv", path=path, target="y")
    assert set(data.spec.class_names) == {one, other}
    (warning,) = (line for line in build.warnings if "differ in spelling are distinct" in line)
    assert warning.startswith(f"{path}:5: 'y' is {other!r}, and {one!r} in {path}:2")
