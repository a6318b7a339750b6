"""Configs suggested for the user's own data: valid, trainable, and explained."""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from made_data import HOUSES, flowers, houses, image_folder, reviews, table
from small_data import write_images, write_sentences, write_text

import dltrain
from dltrain.commands.init import init
from dltrain.core.errors import DataError, UsageError

QUICK = ["recording.tensorboard=false", "train.device=cpu"]
ALL = {"red": 40, "green": 36, "blue": 44}


def picture_folder() -> str:
    image_folder(Path("my images"), ALL)
    return "my images"


def split_folders() -> str:
    for number, (name, count) in enumerate({"train": 30, "val": 8, "test": 6}.items()):
        image_folder(Path("photos") / name, dict.fromkeys(ALL, count), seed=number)
    return "photos"


def odd_names() -> str:
    image_folder(Path("Bilder #1: größte\nSammlung"), {"yes": 20, "no: x": 20, "# Käse\n'{": 20})
    return "Bilder #1: größte\nSammlung"


def idx_files() -> str:
    write_images(Path("digits"), train=300, test=60, side=14, classes=3)
    return "digits"


def values() -> str:
    table(Path("houses.csv"), HOUSES, houses())
    return "houses.csv"


def semicolons() -> str:
    table(Path("Häuser 1.csv"), HOUSES, houses(), delimiter=";")
    return "Häuser 1.csv"


def classes() -> str:
    table(Path("flowers.csv"), ["a", "b: c", "species"], flowers({"iris": 60, "rose": 50}))
    return "flowers.csv"


def numbered_classes() -> str:
    table(Path("data.tsv"), ["a", "b", "class"], flowers({"0": 60, "1": 70, "2": 50}), dialect=TAB)
    return "data.tsv"


def texts() -> str:
    table(Path("reviews.csv"), ["review", "label"], reviews())
    return "reviews.csv"


def texts_apart_by_tabs() -> str:
    rows = [[n, *row] for n, row in enumerate(reviews())]
    table(Path("my reviews.tsv"), ["id", "what they\nwrote", "stars"], rows, dialect=TAB)
    return "my reviews.tsv"


def texts_apart_by_semicolons() -> str:
    table(Path("reviews.csv"), ["review", "label"], reviews(), delimiter=";")
    return "reviews.csv"


def objects() -> str:
    lines = [{"text": text, "label": label, "tags": []} for text, label in reviews()]
    Path("reviews.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return "reviews.jsonl"


def without_spaces() -> str:
    draw = random.Random(0)
    words = {"好": "很好看的电影推荐大家去看", "坏": "太差了浪费时间不要去看它"}
    rows = [["".join(draw.sample(words[k], 9)), k] for k in words for _ in range(60)]
    table(Path("影评.csv"), ["text", "label"], rows)
    return "影评.csv"


def sst2_layout() -> str:
    write_sentences(Path("sst2"))
    for name, offset in (("train", 0), ("dev", 1000), ("test", 2000)):
        lines = [
            f"a {('dull', 'fine')[i % 2]} film of {offset + i} hours\t{i % 2}" for i in range(60)
        ]
        Path("sst2", f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return "sst2"


def running_text() -> str:
    write_text(Path("Müllers novel.txt"), lines=300)
    return "Müllers novel.txt"


TAB = "excel-tab"
CORPUS = {
    picture_folder: ("image_folder", "val/accuracy"),
    split_folders: ("image_folder", "val/accuracy"),
    odd_names: ("image_folder", "val/accuracy"),
    idx_files: ("idx", "val/accuracy"),
    values: ("csv", "val/mae"),
    semicolons: ("csv", "val/mae"),
    classes: ("csv", "val/accuracy"),
    numbered_classes: ("csv", "val/accuracy"),
    texts: ("text_csv", "val/accuracy"),
    texts_apart_by_tabs: ("text_csv", "val/accuracy"),
    texts_apart_by_semicolons: ("text_csv", "val/accuracy"),
    objects: ("text_csv", "val/accuracy"),
    without_spaces: ("text_csv", "val/accuracy"),
    sst2_layout: ("sst2", "val/accuracy"),
    running_text: ("text_file", "val/loss"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("make", CORPUS, ids=lambda make: make.__name__)
def test_suggested_configs_are_valid_and_train(make, call):
    source, best = CORPUS[make]
    ended = call("init", make(), "-o", "config.yaml")
    assert ended.code == 0, ended.err
    assert "warning" not in ended.out + ended.err
    experiment = dltrain.load("config.yaml", [*QUICK, "train={epochs: 1}"])
    assert (experiment.data.name, experiment.checkpoint.best) == (source, best)
    assert dltrain.check(experiment).findings == []
    assert dltrain.train(experiment, run_dir=Path("run"), quiet=True).status == "done"


@pytest.mark.parametrize(
    ("make", "metric", "chance"),
    [
        (picture_folder, "test/accuracy", 0.6),
        (idx_files, "test/accuracy", 0.6),
        (values, "test/r2", 0.8),
        (classes, "test/accuracy", 0.8),
        (texts, "test/accuracy", 0.8),
        (running_text, "val/accuracy", 0.5),
    ],
)
def test_suggested_configs_learn_easy_data(make, metric, chance):
    init(make(), "config.yaml")
    summary = dltrain.train(dltrain.load("config.yaml", QUICK), run_dir=Path("run"), quiet=True)
    assert summary.metrics[metric] > chance


def test_the_config_explains_its_values(call):
    ended = call("init", picture_folder())
    text = Path("my_images.yaml").read_text(encoding="utf-8")
    assert "# 3 classes (blue, green, red), 36 to 44 images each" in text
    assert yaml.safe_load(text)["name"] == "my_images"
    lines = ended.out.splitlines()
    assert lines[-2:] == ["  dltrain check my_images.yaml", "  dltrain train my_images.yaml"]


def test_existing_splits_are_used():
    found = init(split_folders(), "config.yaml")
    assert found.sizes == {"train": 90, "val": 24, "test": 18}
    assert "validation" not in yaml.safe_load(Path("config.yaml").read_text())["data"]


@pytest.mark.parametrize("names", [("Train", "valid", "Testing"), ("training", "DEV", "test")])
def test_alternative_names_of_split_folders(names):
    for old, new in zip(("train", "val", "test"), names, strict=True):
        shutil.move(f"{split_folders() if old == 'train' else 'photos'}/{old}", f"photos/{new}")
    found = init("photos", "config.yaml")
    assert found.sizes == {"train": 90, "val": 24, "test": 18}
    assert found.doubts == []


@pytest.mark.parametrize("nested", [False, True])
def test_unlabelled_test_images_are_left_for_predict(nested, call):
    folder = Path(picture_folder())
    inside = Path("kaggle", "test", *["images"] * nested)
    inside.mkdir(parents=True)
    shutil.copytree(folder, "kaggle/train")
    shutil.move(next(folder.rglob("*.png")), inside / "0.png")
    ended = call("init", "kaggle", "-o", "config.yaml")
    assert ended.code == 0, ended.err
    assert f"dltrain predict RUN {inside}/*" in ended.out
    assert dltrain.check(dltrain.load("config.yaml")).sizes == {"train": 77, "val": 19, "test": 24}


def test_an_empty_split_folder_is_an_error_if_another_has_labels(call):
    split_folders()
    shutil.rmtree("photos/val")
    Path("photos/val").mkdir()
    ended = call("init", "photos")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "photos/val: has no class folder" in ended.err


def test_grayscale_images_have_one_channel():
    from PIL import Image

    for path in Path(picture_folder()).rglob("*.png"):
        Image.open(path).convert("L").save(path)
    init("my images", "config.yaml")
    assert yaml.safe_load(Path("config.yaml").read_text())["data"]["channels"] == 1


def test_useless_columns_are_excluded():
    rows = [[*row[:-1], "EUR", row[-1]] for row in houses()]
    table(Path("houses.csv"), [*HOUSES[:-1], "currency", "price"], rows)
    found = init("houses.csv")
    data = yaml.safe_load(Path("houses.yaml").read_text())["data"]
    assert data["features"] == ["area", "größe", "district"]
    assert "numbers the rows" in found.seen["left out id"]
    assert "dates" in found.seen["left out built on"]
    assert "'EUR'" in found.seen["left out currency"]


def test_gaps_and_odd_names_of_excluded_columns_are_ignored():
    rows = [
        [n, *row, "" if n % 3 else f"note {n}"] for n, row in enumerate(flowers({"u": 60, "v": 50}))
    ]
    table(Path("f.csv"), ["", "a", "b", "kind", "notes"], rows)
    found = init("f.csv")
    data = yaml.safe_load(Path("f.yaml").read_text())["data"]
    assert (data["target"], data["features"]) == ("kind", ["a", "b"])
    assert found.findings == []


@pytest.mark.parametrize(
    ("name", "changed", "options"),
    [
        ("reviews.csv", {4: '"a dull film', 9: 'a fine film"'}, {"quote": None}),
        ("reviews.csv", {4: '"a dull film'}, {"quote": None}),
        ("reviews.tsv", {4: '"a dull film', 9: 'a fine film"'}, {}),
        ("reviews.txt.csv", {}, {"delimiter": ";"}),
    ],
)
def test_the_detected_layout_keeps_every_row(name, changed, options):
    delimiter = options.get("delimiter", "\t" if name.endswith(".tsv") else ",")
    texts = [(text.replace(",", ""), label) for text, label in reviews()]
    rows = [(changed.get(n, text), label) for n, (text, label) in enumerate(texts)]
    lines = [delimiter.join(row) for row in [("review", "label"), *rows]]
    Path(name).write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = init(name, "config.yaml")
    data = yaml.safe_load(Path("config.yaml").read_text())["data"]
    assert {key: data[key] for key in ("delimiter", "quote") if key in data} == options
    assert found.seen["texts"] == str(len(rows))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["00501", "501", "10115"], "class"),
        (["9007199254740992", "9007199254740993"], "class"),
        (["1", "1.0", "x"], None),
        (["2", "10", "1e1"], "class"),
    ],
)
def test_classes_are_counted_by_their_spelling(names, kind):
    rows = [[*row[:2], names[n % len(names)]] for n, row in enumerate(flowers({"u": 90}))]
    table(Path("f.csv"), ["a", "b", "kind"], rows)
    found = init("f.csv")
    assert f"{len(names)} classes ({', '.join(names)})" in found.seen["target"]
    data = yaml.safe_load(Path("f.yaml").read_text())["data"]
    assert data.get("target_kind") == kind
    experiment = dltrain.load("f.yaml", [*QUICK, "train={epochs: 1}"])
    dltrain.train(experiment, run_dir=Path("run"), quiet=True)
    (one,) = dltrain.predict(Path("run"), [write_row(rows[0])])
    assert set(one.probabilities or ()) == set(names)


def write_row(row: list[object]) -> Path:
    table(Path("new.csv"), ["a", "b"], [row[:2]])
    return Path("new.csv")


def test_codes_with_leading_zeros_are_categories_unless_the_user_says_otherwise():
    rows = [[*row[:2], f"{n % 30:05}"] for n, row in enumerate(flowers({"u": 90, "v": 90}))]
    table(Path("f.csv"), ["a", "b", "zip"], rows)
    assert "30 classes" in init("f.csv", target="zip").seen["target"]
    init("f.csv", target="zip", task="regression", force=True)
    assert yaml.safe_load(Path("f.yaml").read_text())["data"]["target_kind"] == "value"
    table(
        Path("g.csv"), ["a", "zip", "kind"], [[r[0], r[2], "uv"[n % 2]] for n, r in enumerate(rows)]
    )
    assert "1 column of categories" in init("g.csv").seen["features"]


def test_imbalanced_classes_are_weighted():
    table(Path("f.csv"), ["a", "b", "kind"], flowers({"common": 200, "rare": 40}))
    init("f.csv")
    text = Path("f.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["loss"]["class_weights"] == "balanced"
    assert config["checkpoint"]["best"] == config["early_stop"]["monitor"] == "val/f1"
    assert "83% accurate" in text


@pytest.mark.parametrize(
    ("numbers", "kind", "doubts"),
    [
        ([0, 1], "class", 0),
        ([-1.5, 1.5], "class", 0),
        ([1, 2, 3, 4, 5], "class", 1),
        ([0.5, 1, 1.5], "value", 0),
        (list(range(100, 160)), "value", 0),
    ],
)
def test_numbers_are_classes_where_they_are_few_and_whole(numbers, kind, doubts):
    rows = [[*row[:2], numbers[i % len(numbers)]] for i, row in enumerate(flowers({"x": 180}))]
    table(Path("f.csv"), ["a", "b", "target"], rows)
    found = init("f.csv")
    assert yaml.safe_load(Path("f.yaml").read_text())["data"]["target_kind"] == kind
    assert len(found.doubts) == doubts
    assert all("--task regression" in doubt for doubt in found.doubts)


def test_options_override_guesses(call):
    table(Path("f.csv"), ["a", "label", "class"], [[r[0], r[2], r[2] * 2] for r in houses_like()])
    output = call("init", "f.csv").out
    assert "note: the target column is a guess: 'class'" in output
    assert "select another with --target COLUMN: label" in output
    ended = call("init", "f.csv", "--target", "label", "--force", "--json")
    assert json.loads(ended.out)["doubts"] == []
    assert yaml.safe_load(Path("f.yaml").read_text())["data"]["target"] == "label"


def houses_like() -> list[list[object]]:
    return flowers({"u": 50, "v": 60})


def test_outliers_select_a_robust_loss():
    rows = houses()
    rows[7][-1] = 1e6
    table(Path("houses.csv"), HOUSES, rows)
    init("houses.csv")
    assert yaml.safe_load(Path("houses.yaml").read_text())["loss"] == "huber"


def with_numbers() -> str:
    draw = random.Random(0)
    rows = [[draw.random(), draw.random(), *row] for row in reviews()]
    table(Path("mixed.csv"), ["age", "hours", "review", "label"], rows)
    return "mixed.csv"


@pytest.mark.parametrize(
    ("words", "learnt_from", "doubts"),
    [
        ([], ["review"], 1),
        (["--text", "review"], ["review"], 0),
        (["--no-text"], ["age", "hours"], 0),
    ],
)
def test_text_beside_numbers_is_used_unless_disabled(words, learnt_from, doubts, call):
    ended = call("init", with_numbers(), *words)
    assert ended.code == 0, ended.err
    data = yaml.safe_load(Path("mixed.yaml").read_text())["data"]
    assert data["text" if "review" in learnt_from else "features"] == learnt_from
    assert ended.out.count("note: ") == doubts
    assert ("--no-text uses those instead" in ended.out) == bool(doubts)


def test_short_names_do_not_make_a_table_a_text():
    rows = [[f"{n} Main Street", *row] for n, row in enumerate(flowers({"u": 50, "v": 60}))]
    table(Path("f.csv"), ["address", "a", "b", "kind"], rows)
    found = init("f.csv")
    assert found.kind == "a table"
    assert "--text COLUMN" in found.seen["left out address"]


@pytest.mark.parametrize("times", [1, 2])
def test_rare_words_stay_in_the_vocabulary_if_all_are_rare(call, times):
    """Texts of words that come once or twice, in two classes that differ by nothing else."""
    rows = []
    for n in range(4000):
        again = times == 2 and n >= 2000  # the words of the others, in other company
        numbers = [n - 2000 + 2000 * k if again else 10 * n + k for k in range(10)]
        rows.append([" ".join(f"w{number}" for number in numbers), "ab"[n // 7 % 2]])
    table(Path("words.csv"), ["text", "label"], rows)
    ended = call("init", "words.csv", "-o", "w.yaml")
    assert "warning" not in ended.out
    assert "min_count" not in Path("w.yaml").read_text()


def test_rare_words_among_many_frequent_ones_are_dropped():
    rows = [[f"{text} so it was no {n}", label] for n, (text, label) in enumerate(reviews() * 25)]
    table(Path("many.csv"), ["review", "label"], rows)
    init("many.csv")
    assert yaml.safe_load(Path("many.yaml").read_text())["data"]["min_count"] == 2


def test_long_texts_are_truncated():
    rows = [(f"{text} {'and so on ' * 300}", label) for text, label in reviews()]
    table(Path("long.csv"), ["review", "label"], rows)
    init("long.csv")
    assert yaml.safe_load(Path("long.yaml").read_text())["data"]["max_tokens"] == 400


# ------------------------------------------------------------------------------- rejected data


def ragged() -> str:
    values()
    lines = Path("houses.csv").read_text(encoding="utf-8").splitlines()
    lines[16] += ",1"
    Path("houses.csv").write_text("\n".join(lines), encoding="utf-8")
    return "houses.csv"


def missing() -> str:
    rows = houses()
    rows[4][2] = rows[9][2] = ""
    table(Path("houses.csv"), HOUSES, rows)
    return "houses.csv"


def not_utf8() -> str:
    values()
    text = Path("houses.csv").read_text(encoding="utf-8")
    Path("houses.csv").write_bytes(text.encode("latin-1"))
    return "houses.csv"


def no_header() -> str:
    table(Path("houses.csv"), [str(cell) for cell in houses()[0]], houses()[1:])
    return "houses.csv"


def lonely_class() -> str:
    table(Path("f.csv"), ["a", "b", "kind"], flowers({"rose": 50, "iris": 60, "fern": 2}))
    return "f.csv"


def too_few() -> str:
    table(Path("f.csv"), ["a", "b", "kind"], flowers({"rose": 4, "iris": 4}))
    return "f.csv"


def empty_class() -> str:
    Path(picture_folder(), "yellow").mkdir()
    return "my images"


def damaged_picture() -> str:
    Path(picture_folder(), "red", "3.png").write_bytes(b"no picture")
    return "my images"


def one_class() -> str:
    image_folder(Path("cats"), {"cat": 20})
    return "cats"


def no_object() -> str:
    lines = Path(objects()).read_text().splitlines()
    Path("reviews.jsonl").write_text("\n".join([*lines[:2], "[", *lines[2:]]))
    return "reviews.jsonl"


def no_text() -> str:
    lines = Path(objects()).read_text().splitlines()
    lines[4] = json.dumps({"text": None, "label": "good"})
    Path("reviews.jsonl").write_text("\n".join(lines))
    return "reviews.jsonl"


def empty_text() -> str:
    rows = reviews()
    rows[2] = ("", "good")
    table(Path("reviews.csv"), ["review", "label"], rows)
    return "reviews.csv"


def little_text() -> str:
    Path("short.txt").write_text("to be or not")
    return "short.txt"


REFUSED = {
    ragged: "houses.csv:17: 7 cells, the header has 6",
    missing: "houses.csv:6: 'area' is empty",
    not_utf8: "houses.csv:1: is not UTF-8",
    no_header: "houses.csv:1: expected a column name, got '1'",
    no_object: "reviews.jsonl:3: not a JSON object",
    no_text: "reviews.jsonl:5: expected a text or a number in 'text', got null",
    empty_text: "reviews.csv:4: 'review' is empty",
    little_text: "short.txt: has 12 characters",
    lonely_class: "f.csv: column 'kind': each class needs 3 rows",
    too_few: "f.csv: has 8 rows",
    empty_class: "my images/yellow: has no image",
    damaged_picture: "my images/red/3.png: not an image",
    one_class: "cats: expected two or more folders",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_an_error_names_the_location_and_nothing_is_written(make, call, folder):
    path = make()
    before = sorted(folder.rglob("*"))
    ended = call("init", path)
    assert ended.code == 1
    assert ended.err.startswith(REFUSED[make])
    assert ended.out == ""
    assert sorted(folder.rglob("*")) == before


def test_all_missing_values_are_reported_together(call):
    assert "'area' has no value in 2 of 200 rows: lines 6, 11" in call("init", missing()).err


def test_existing_files_are_not_overwritten(call):
    Path("houses.yaml").write_text("mine")
    ended = call("init", values())
    assert (ended.code, Path("houses.yaml").read_text()) == (2, "mine")
    assert "--force" in ended.err
    assert call("init", "houses.csv", "--force").code == 0
    assert Path("houses.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.csv"], "no such file"),
        (["houses.csv", "--target", "prize"], "no column 'prize'; it has id, built on, area"),
        (
            ["houses.csv", "--target", "district", "--task", "regression"],
            "expected numbers in 'district'",
        ),
        (["houses.csv", "-o", "no/where.yaml"], "there is no folder no"),
        (["my images", "--target", "x"], "apply to files with columns"),
        (["my images/red/1.png"], "a single image"),
        (["list.zip"], "unknown kind of data"),
        (["houses.csv", "--text", "prose"], "--text: houses.csv has no column 'prose'"),
        (["houses.csv", "--text", "area", "--target", "area"], "both name 'area'"),
        (["houses.csv", "--text", "area", "--no-text"], "exclude each other"),
        (["reviews.csv", "--task", "regression"], "texts can only be classified"),
        (["tables"], "contains houses.csv; give one of these files"),
    ],
)
def test_command_line_errors(words, message, call):
    values()
    texts()
    picture_folder()
    Path("list.zip").touch()
    Path("tables").mkdir()
    shutil.copy("houses.csv", "tables")
    ended = call("init", *words)
    assert ended.code == 2
    assert message in ended.err


def test_the_config_refers_to_an_existing_schema(folder):
    values()
    init("houses.csv", "a.yaml")
    assert "schema" not in Path("a.yaml").read_text()
    (folder / "dltrain.schema.json").touch()
    (folder / "configs").mkdir()
    init("houses.csv", "configs/b.yaml")
    first = Path("configs/b.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../dltrain.schema.json"


def test_errors_have_the_package_types():
    with pytest.raises(DataError):
        init(missing())
    with pytest.raises(UsageError):
        init("nothing.csv")
