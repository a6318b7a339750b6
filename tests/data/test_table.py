"""Table files: quotes, delimiters, line ends, and the line in every error."""

import csv
import io
import random

import pytest

from dltrain.core.errors import DataError, OptionError
from dltrain.data.input_readers import read_new_table
from dltrain.data.sst2 import read_sst2
from dltrain.data.table_reading import Layout, detect_layout, read_table

FILM = [f"the film was {('good', 'bad')[n % 2]}" for n in range(30)]


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="t.csv"):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write_file


def films(delimiter, changed, *, target_first=False):
    """Return a table of thirty texts and classes; `changed` maps row numbers to texts."""
    rows = [(changed.get(n, text), str(n % 2)) for n, text in enumerate(FILM)]
    rows = [("text", "label"), *rows]
    return "".join(delimiter.join(row[:: -1 if target_first else 1]) + "\n" for row in rows)


@pytest.mark.parametrize("text", ['"the film', 'the film"', 'the "film', '"', '5" disk', '""x'])
def test_a_quote_in_a_tsv_file_is_a_character(write, text):
    content = films("\t", {4: text, 9: text})
    table = read_table(write(content, "t.tsv"))
    assert table.columns["text"][4] == table.columns["text"][9] == text
    assert table.columns["label"] == [str(n % 2) for n in range(30)]
    assert table.lines == [*range(2, 32)]
    assert read_table(write(content), "\t").columns == table.columns


def test_quoting_can_be_enabled_in_tsv_and_disabled_in_csv(write):
    tsv = write('text\tlabel\n"a\tb\nc"\t1\nd\t0\n', "t.tsv")
    table = read_table(tsv, quote='"')
    assert table.columns == {"text": ["a\tb\nc", "d"], "label": ["1", "0"]}
    assert table.lines == [2, 4]
    table = read_table(write('text,label\n"a,1\nb",0\n'), quote=None)
    assert table.columns == {"text": ['"a', 'b"'], "label": ["1", "0"]}
    assert read_table(write("text,label\n'a,b',1\n"), quote="'").columns["text"] == ["a,b"]
    with pytest.raises(OptionError, match="is the delimiter as well"):
        read_table(write("text;label\na;1\n"), ";", ";")


@pytest.mark.parametrize("row", [0, 4, 17, 28])
@pytest.mark.parametrize("target_first", [False, True])
def test_an_unterminated_cell_is_named_by_the_line_where_it_starts(write, row, target_first):
    path = write(films(",", {row: '"the film'}, target_first=target_first))
    with pytest.raises(DataError, match=rf"t\.csv:{row + 2}: the quoted cell .* never ends"):
        read_table(path)
    assert read_table(path, quote=None).columns["text"][row] == '"the film'


def test_an_unterminated_cell_may_follow_multiline_cells(write):
    text = 'a,b,c\n1,2,3\n"x\ny","u\nv","never\nends,5\n6,7,8\n'
    with pytest.raises(DataError, match=r"t\.csv:5: the quoted cell"):
        read_table(write(text))
    text = 'a,b\n1,2\n"x ""y"" ""\nz,2\n'
    with pytest.raises(DataError, match=r"t\.csv:3: the quoted cell"):
        read_table(write(text))


@pytest.mark.parametrize("target_first", [False, True])
@pytest.mark.parametrize(
    "changed",
    [
        {4: '"the film was bad', 9: 'the film was good"'},
        {4: '"the film was bad', 5: 'the film was good"'},
        {4: '"the film, so to say', 6: "again, and again", 9: 'was, well, good"'},
        {4: '"the film', 9: '"was good" they said'},
        {4: '"the film', 9: '"was good"'},
        {4: '"', 9: '"'},
        {4: '"the film was bad', 28: 'the film was good"'},
    ],
)
def test_unbalanced_quotes_never_merge_rows(write, changed, target_first):
    path = write(films(",", changed, target_first=target_first))
    with pytest.raises(DataError, match=r"t\.csv:6: ") as caught:
        read_table(path)
    assert "quote" in str(caught.value)


def test_lines_within_a_cell_are_not_rows(write):
    letters = ['"Dear, Bob\n\nbye"', '"a, b\r\nc, d\r\n1 of 2"', '"he said ""no, 1""\nand, 0 left"']
    content = films(",", dict(zip((3, 7, 20), letters, strict=True)))
    expected = [*csv.reader(io.StringIO(content, newline=""))]
    table = read_table(write(content))
    assert [*zip(*table.columns.values(), strict=True)] == [*map(tuple, expected[1:])]
    assert (table.lines[3], table.lines[4], table.lines[8], table.lines[21]) == (5, 8, 14, 28)
    bad = write(content + "last\n")
    with pytest.raises(DataError, match=r"t\.csv:37: 1 cells, the header has 2"):
        read_table(bad)


def test_multiline_cells_in_every_row_are_not_rows(write):
    cells = ['"flour, 100\nsugar, 50\nsalt, 5"', '"Dear Bob,\nthanks, Ann"', '"a, 1\nb, 2"']
    names = ["dessert", "letter", "list"]
    lines = [",".join(row) for row in zip(cells, names, strict=True)]
    table = read_table(write("\n".join(["text,label", *lines])))
    assert table.columns["label"] == names


def test_rows_within_a_cell_are_accepted_with_explicit_quoting(write):
    path = write(films(",", {4: '"the film', 9: 'good"'}))
    table = read_table(path, quote='"')
    assert len(table.lines) == 25
    assert table.columns["text"][4].count("\n") == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a,b\n1,2\n"x" y,3\n', r"t\.csv:3: ' y,3' follows the cell's closing quote"),
        (
            'a,b\n1,2\n"x\ny" z,3\n',
            r"t\.csv:3: ' z,3' follows the cell's .* 1 lines below",
        ),
        ('a,b\n1,"2" "\n', r"t\.csv:2: "),
        ("a,b\n1,2\n3,4\rx,6\n", r"t\.csv:3: a carriage return inside a line"),
        ("a,b\n1,2\n3\0,4\n", r"t\.csv:3: has a NUL character"),
        ("a,b\n1,2\n1,2,3\n", r"t\.csv:3: 3 cells, the header has 2"),
        ('a,b\n1,2\n"1\n2\n3"\n', r"t\.csv:3: 1 cells, the header has 2; its quotes .* line 5"),
        ("\n\n", r"t\.csv:1: .*column names"),
        (",,\n1,2,3\n", r"t\.csv:1: .*column names"),
    ],
)
def test_errors_name_their_line(write, text, words):
    with pytest.raises(DataError, match=words):
        read_table(write(text))


def test_a_quote_within_a_cell_is_a_character(write):
    table = read_table(write('disk,size\n5" floppy,5"\nfloppy 3.5",3\n'))
    assert table.columns == {"disk": ['5" floppy', 'floppy 3.5"'], "size": ['5"', "3"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends_and_byte_order_marks(write, end):
    text = end.join(["x;y", '1;"a;b"', "2;c", ""])
    table = read_table(write("\ufeff" + text), ";")
    assert table.columns == {"x": ["1", "2"], "y": ["a;b", "c"]}


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_line_feeds_and_carriage_returns_end_a_line(write, end):
    table = read_table(write(f"x\ty\na{end}b\t1\nc\t2\n", "t.tsv"))
    assert table.columns["x"] == [f"a{end}b", "c"]
    assert table.lines == [2, 3]


def test_cells_may_be_long(write):
    long = "good film " * 200_000
    for quote in ("", '"'):
        table = read_table(write(f"text,label\n{quote}{long}{quote},1\nx,0\n"))
        assert table.columns["text"] == [long.strip(), "x"]


def test_output_of_the_csv_module_is_read_exactly(write):
    draw = random.Random(0)
    pool = ['"', ",", "\n", "\r\n", "a", " ", "é", "\t", ";", "''", '""']
    for number in range(200):
        rows = [
            ["".join(draw.choices(pool, k=draw.randrange(6))) or "-" for _ in range(3)]
            for _ in range(8)
        ]
        rows = [[str(n), *row] for n, row in enumerate(rows)]
        delimiter = draw.choice(",;|\t")
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter, lineterminator=draw.choice(["\n", "\r\n"])).writerows(
            [["id", "x", "y", "z"], *rows]
        )
        table = read_table(write(file.getvalue(), f"{number}.csv"), delimiter, '"')
        read = [*map(list, zip(*table.columns.values(), strict=True))]
        assert read == [[cell.strip() for cell in row] for row in rows], number


@pytest.mark.parametrize(
    ("name", "text", "layout"),
    [
        ("t.csv", "a,b\n1,2\n", (",", '"')),
        ("t.csv", "a;b\n1,5;2\n3;4\n", (";", '"')),
        ("t.csv", "a\tb\n1\t2\n", ("\t", None)),
        ("t.tsv", "a,b\n1,2\n", (",", '"')),
        ("t.tsv", 'a\tb\n"x\t2\n', ("\t", None)),
        ("t.tsv", '"a"\t"b"\n"x"\t"2"\n', ("\t", '"')),
        ("t.tsv", 'a\tb\n"x\ty"\t2\n', ("\t", '"')),
        ("t.csv", 'a,b\n"x,2\ny,3\n', (",", None)),
        ("t.csv", '"a, b",c\n"x, y",2\n', (",", '"')),
        ("t.csv", '"a;b;c",d\n"x;y;z",2\n', (",", '"')),
        ("t.csv", "a\n1\n", (",", '"')),
        ("t.csv", "a,b\n1\n", (",", '"')),
    ],
)
def test_the_layout_is_detected_from_the_file(write, name, text, layout):
    path = write(text, name)
    assert detect_layout(path) == Layout(*layout)
    if "\n1\n" not in text:
        assert len(read_table(path, **detect_layout(path).non_default_options(path)).columns) > 1


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "a;b\n1,5;2\n", 'delimiter: ";"'),
        ("t.csv", "a;b\n1;2\n", 'delimiter: ";"'),
        ("t.csv", "a\tb\n1\t2\n", r'delimiter: "\\t"'),
        ("t.tsv", "a,b\n1,2\n", 'delimiter: ","'),
        ("t.csv", 'a,b\n1,"2\n', "quote: null"),
        ("t.tsv", 'a\tb\n"x\ty"\t2\n', r'quote: "\\""'),
    ],
)
def test_an_error_suggests_the_option(write, name, text, words):
    with pytest.raises(DataError, match=rf"{name}:\d+: .*; it is a table with {words}"):
        read_table(write(text, name))


def test_quoted_column_names_are_explained(write):
    table = read_table(write('"a"\t"b"\n"x"\t"2"\n', "t.tsv"))
    with pytest.raises(DataError, match=r"no column 'b'.*; the names are in quotes: set quote"):
        table.column("b")


def test_unused_columns_may_have_any_name(write):
    table = read_table(write(",x,y,y\n0,1,2,3\n"))
    assert table.columns == {"x": ["1"]}
    with pytest.raises(DataError, match="several columns have the name 'y'"):
        table.column("y")
    with pytest.raises(
        DataError, match=r"t\.csv:1: column names must be non-empty and unique, got '', 'y'"
    ):
        table.require_names()


def test_a_table_to_predict_from_is_read_with_the_quoting_of_training(write):
    path = write('"x;y";z\n"a;b";1\n')
    assert read_new_table(path, ["x;y"], "auto").columns["x;y"] == ["a;b"]
    path = write('x;z\n"a;1\n')
    assert read_new_table(path, ["x"], None).columns["x"] == ['"a']
    with pytest.raises(DataError, match="never ends"):
        read_new_table(path, ["x"], "auto")


def test_sst2_with_a_header_gives_the_same_data(sst2_root, tmp_path):
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        path = sst2_root / "sst2" / name
        (tmp_path / name).write_bytes(b"text\tlabel\n" + path.read_bytes())
        expected, table = read_sst2(path), read_table(tmp_path / name)
        assert table.columns["text"] == [text.strip() for text in expected.texts]
        assert table.columns["label"] == [*map(str, expected.targets)]
        assert detect_layout(tmp_path / name) == Layout("\t", None)
