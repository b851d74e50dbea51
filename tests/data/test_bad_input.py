"""Bad input: malformed rows are set aside with file, line and reason; unusable files stop with one line."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prep_helpers import criteo_file, criteo_lines, raw_table, read_all

from slimtab.data.layout import Layout
from slimtab.data.options import PrepOptions
from slimtab.data.prepare import prepare
from slimtab.data.readers import TextReader
from slimtab.errors import SlimtabError
from slimtab.schema import Numeric, RawFormat, Schema


def with_cell(line: str, place: int, cell: str) -> str:
    cells = line.split("\t")
    cells[place] = cell
    return "\t".join(cells)


ROW_FAULTS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "too few columns": (lambda line: line.rsplit("\t", 1)[0].encode(), "39 columns where 40 belong"),
    "too many columns": (lambda line: f"{line}\tx".encode(), "41 columns where 40 belong"),
    "letter in an integer": (lambda line: with_cell(line, 3, "12a").encode(), "I3: '12a' is not an integer"),
    "fraction in an integer": (
        lambda line: with_cell(line, 3, "1.5").encode(),
        "I3: '1.5' is not an integer",
    ),
    "beyond 64 bits": (lambda line: with_cell(line, 3, "9" * 25).encode(), "is not an integer"),
    "not UTF-8": (lambda line: with_cell(line, 20, "ab").encode() + b"\xff\xfe", "not UTF-8"),
    "label 2": (lambda line: with_cell(line, 0, "2").encode(), "label '2' is not 0 or 1"),
    "empty label": (lambda line: with_cell(line, 0, "").encode(), "label '' is not 0 or 1"),
    "word as label": (lambda line: with_cell(line, 0, "yes").encode(), "label 'yes' is not 0 or 1"),
    "carriage return": (lambda line: with_cell(line, 20, "a\rb").encode(), "carriage return"),
}


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_a_malformed_row_is_set_aside(tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, reason = ROW_FAULTS[fault]
    lines = criteo_lines(300)
    raw = tmp_path / "train.txt"
    raw.write_bytes(
        b"\n".join(damage(line) if row == 100 else line.encode() for row, line in enumerate(lines)) + b"\n"
    )
    schema = prepare(raw, tmp_path / "out", PrepOptions("criteo"))
    assert "1 of 300 rows are malformed" in capsys.readouterr().err
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert (reject["file"], reject["line"]) == ("train.txt", 101)
    assert reason in reject["reason"]
    assert sum(schema.rows.values()) == 299
    good = criteo_file(tmp_path, lines[:100] + lines[101:], "good.txt")
    prepare(good, tmp_path / "good", PrepOptions("criteo"), progress=False)
    assert read_all(tmp_path / "out").equals(read_all(tmp_path / "good"))


def test_line_numbers_count_blank_lines_and_run_through_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimtab.data.prepare.BLOCK_BYTES", 20_000)
    lines = criteo_lines(1000)
    lines[300] = ""
    for row in (0, 500, 999):
        lines[row] = with_cell(lines[row], 0, "5")
    prepare(criteo_file(tmp_path, lines), tmp_path / "out", PrepOptions("criteo"), progress=False)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [1, 501, 1000]


def test_too_many_rejects_stop_prep_and_a_higher_limit_goes_on(tmp_path: Path) -> None:
    lines = criteo_lines(200)
    for row in range(5):
        lines[50 + row] = "broken"
    raw, out = criteo_file(tmp_path, lines), tmp_path / "out"
    with pytest.raises(
        SlimtabError, match=r"5 of 200 rows are malformed, over the limit of 1.00%.*line.*51"
    ) as caught:
        prepare(raw, out, PrepOptions("criteo"), progress=False)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    schema = prepare(raw, out, PrepOptions("criteo", max_rejects=0.03), progress=False)
    assert sum(schema.rows.values()) == 195


def _avazu(tmp_path: Path) -> Path:
    path = tmp_path / "avazu.csv"
    path.write_text("id,click,hour,C1\n1,0,14102100,1005\n")
    return path


def _header(tmp_path: Path) -> Path:
    names = "\t".join(["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))])
    return criteo_file(tmp_path, [names, *criteo_lines(10)])


def _parquet(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(raw_table(criteo_lines(10)).drop(["C7"]), path)
    return path


def _cut(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> Path:
    path = tmp_path / name
    packed = pack("\n".join(criteo_lines(2000)).encode())
    path.write_bytes(packed[: len(packed) * 2 // 3])
    return path


def _folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        criteo_file(folder, criteo_lines(5), name)
    return folder


def _bytes(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


FILE_FAULTS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda tmp: tmp / "absent.tsv", "criteo", "does not exist"),
    "empty": (lambda tmp: _bytes(tmp, "e.tsv", b""), "criteo", "is empty"),
    "blank lines only": (lambda tmp: _bytes(tmp, "e.tsv", b"\n\n\n"), "criteo", "no well-formed rows"),
    "header": (_header, "criteo", "starts with a header"),
    "another format": (
        lambda tmp: _bytes(tmp, "x.txt", b"hello\n" * 50),
        "criteo",
        "50 of 50 rows are malformed",
    ),
    "one long line": (lambda tmp: _bytes(tmp, "x.txt", b"x" * (65 * 2**20)), "criteo", "no line end"),
    "column missing from CSV": (_avazu, "avazu", "no column 'banner_pos'"),
    "column missing from Parquet": (_parquet, "criteo", "no column 'C7'; did you mean"),
    "truncated gz": (lambda tmp: _cut(tmp, "t.tsv.gz", gzip.compress), "criteo", "ends too early"),
    "truncated zst": (lambda tmp: _cut(tmp, "t.tsv.zst", zstandard.compress), "criteo", "ends too early"),
    "not gzip at all": (lambda tmp: _bytes(tmp, "t.tsv.gz", b"hello world"), "criteo", "download it again"),
    "truncated Parquet": (
        lambda tmp: _bytes(tmp, "t.parquet", b"PAR1" + b"x" * 100),
        "criteo",
        "not a whole Parquet",
    ),
    "row cut in the middle": (lambda tmp: _cut(tmp, "t.tsv", bytes), "criteo", "ends in the middle of row"),
    "unfinished download": (
        lambda tmp: criteo_file(tmp, name="t.tsv.crdownload"),
        "criteo",
        "unfinished download",
    ),
    "unfinished in a folder": (
        lambda tmp: _folder(tmp, "a.tsv", "b.tsv.part"),
        "criteo",
        "b.tsv.part is an unfinished",
    ),
    "empty folder": (_folder, "criteo", "holds no raw files"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_an_unusable_file_stops_prep_with_one_line(tmp_path: Path, fault: str) -> None:
    make, kind, message = FILE_FAULTS[fault]
    with pytest.raises(SlimtabError, match=message) as caught:
        prepare(make(tmp_path), tmp_path / "out", PrepOptions(kind), progress=False)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_text_where_parquet_should_hold_numbers(tmp_path: Path) -> None:
    table = raw_table(criteo_lines(10))
    path = tmp_path / "rows.parquet"
    pq.write_table(table.set_column(1, "I1", pa.array(["x"] * 10)), path)
    with pytest.raises(SlimtabError, match="column 'I1' holds string, not numbers"):
        prepare(path, tmp_path / "out", PrepOptions("criteo"), progress=False)


def test_bad_labels_in_parquet_are_rejected_by_row(tmp_path: Path) -> None:
    lines = criteo_lines(200)
    lines[7] = with_cell(lines[7], 0, "3")
    pq.write_table(raw_table(lines), tmp_path / "rows.parquet")
    prepare(tmp_path / "rows.parquet", tmp_path / "out", PrepOptions("criteo"), progress=False)
    (reject,) = map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    assert reject["line"] == 8
    assert "label" in reject["reason"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labl: y\n", r"unknown key 'labl'; did you mean 'label'\?"),
        ("numeric: [a]\n", "'label' is missing"),
        ("label: y\nnumeric: a\n", "'numeric' must be a list"),
        ("label: y\nnumeric: [a]\ncategorical: [a]\n", "column 'a' has two roles"),
        ("label: y\n", "at least one"),
        ("label: [\n", "cannot be read"),
        ("label: y\nnumeric: [a/b]\n", "cannot name a file"),
        ("label: y\nnumeric: [a]\n", "column 'b' has no role"),
    ],
)
def test_column_descriptions(tmp_path: Path, text: str, message: str) -> None:
    columns, raw = tmp_path / "columns.yaml", tmp_path / "rows.csv"
    columns.write_text(text)
    raw.write_text("y,a,b\n1,2,3\n")
    with pytest.raises(SlimtabError, match=message) as caught:
        prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_header_that_is_one_name_says_what_separates_it(tmp_path: Path, separator: str) -> None:
    columns, raw = tmp_path / "columns.yaml", tmp_path / "rows.csv"
    columns.write_text("label: y\nnumeric: [a, b]\n")
    raw.write_text("y,a,b\n1,2,3\n".replace(",", separator))
    with pytest.raises(SlimtabError, match="no column 'y': fields are separated by") as caught:
        prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    # What it says to add is YAML that mends it; what failed before a row was read is not in the way.
    with columns.open("a") as file:
        file.write(str(caught.value).rsplit(", ", 1)[1] + "\n")
    schema = prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    assert schema.raw.separator == separator


def test_quotes_in_a_header_that_is_one_name(tmp_path: Path) -> None:
    """Inside the name they need not match, and the error is one line still."""
    columns, raw = tmp_path / "columns.yaml", tmp_path / "rows.csv"
    columns.write_text("label: y\nnumeric: [a]\n")
    raw.write_text('"a"";""y"\n1\n')
    with pytest.raises(SlimtabError, match="no column 'y': fields are separated by ';'"):
        prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    raw.write_text('"y,a\n1,2\n')
    with pytest.raises(SlimtabError, match="quotes that do not match") as caught:
        prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words", [("0", "1"), ("False", "True"), ("false", "true"), ("0.0", "1.0"), (" 0", "1e0")]
)
def test_labels_of_tables(tmp_path: Path, words: tuple[str, str]) -> None:
    columns, raw = tmp_path / "columns.yaml", tmp_path / "rows.csv"
    columns.write_text("label: y\nnumeric: [a]\n")
    cells = [words[row % 3 == 0] for row in range(200)]
    cells[7] = "maybe"
    raw.write_text("y,a\n" + "".join(f"{cell},{row}\n" for row, cell in enumerate(cells)))
    prepare(raw, tmp_path / "out", PrepOptions("table", columns=columns), progress=False)
    expected = [float(row % 3 == 0) for row in range(200) if row != 7]
    assert read_all(tmp_path / "out")["y"].to_pylist() == expected
    reject = json.loads((tmp_path / "out" / "rejects.jsonl").read_text())
    assert reject == {"file": "rows.csv", "line": 9, "reason": "label 'maybe' is not 0 or 1"}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"kind": "critео"}, "is not known"),
        ({"kind": "criteo", "numeric": "log2p"}, "did you mean 'log1p'"),
        ({"kind": "criteo", "train": 0.9}, "add up to 1"),
        ({"kind": "criteo", "min_count": 0}, "at least 1"),
        ({"kind": "criteo", "max_memory": "lots"}, "is not a size"),
        ({"kind": "criteo", "max_memory": "1MB"}, "too little"),
        ({"kind": "table"}, "--columns"),
        ({"kind": "sports", "split": "random"}, "protocol"),
    ],
)
def test_settings(tmp_path: Path, settings_: dict[str, object], message: str) -> None:
    with pytest.raises(SlimtabError, match=message):
        prepare(criteo_file(tmp_path), tmp_path / "out", PrepOptions(**settings_), progress=False)  # type: ignore[arg-type]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from slimtab.data.prepare import PrepOptions, prepare
from slimtab.errors import SlimtabError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    prepare(Path(sys.argv[1]), Path(sys.argv[2]), PrepOptions("criteo"), progress=False)
except SlimtabError as error:
    sys.exit(f"one line: {error}")
"""


def test_a_full_disk_stops_with_one_line_and_prep_goes_on_later(tmp_path: Path) -> None:
    raw, out = criteo_file(tmp_path), tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, raw, out], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "is full" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not out.exists()
    prepare(raw, out, PrepOptions("criteo"), progress=False)
    assert sum(read_all(out)["label"].is_valid().to_pylist()) == 1000


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(number: int) -> None:
        raise OSError(code, "no space")

    monkeypatch.setattr("slimtab.files.os.fsync", fail)
    with pytest.raises(SlimtabError, match="is full"):
        prepare(criteo_file(tmp_path), tmp_path / "out", PrepOptions("criteo"), progress=False)


LAYOUT = Layout.of(Schema(RawFormat("table"), (Numeric("x"),)))
cells = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"), max_size=8),
    st.sampled_from(
        [
            "",
            " 1",
            "1 ",
            "+1",
            "1e5",
            "1e999",
            "inf",
            "nan",
            "-nan",
            "NaN",
            "0x1",
            "1_0",
            '"1"',
            '"',
            '""',
            ".5",
            "5.",
        ]
    ),
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(["0", "1", "1.0", "2"]), cells), min_size=1, max_size=6), st.booleans()
)
def test_reading_by_line_agrees_with_reading_by_block(
    tmp_path: Path, rows: list[tuple[str, str]], tab: bool
) -> None:
    """A row alone in its block and the same row beside a malformed one meet the same fate."""
    separator = "\t" if tab else ","
    path = tmp_path / ("rows.tsv" if tab else "rows.csv")
    path.write_text(separator.join(["label", "x"]) + "\n")
    reader = TextReader(path, LAYOUT, True, 2**20)
    for label, cell in rows:
        line = f"{label}{separator}{cell}".encode()
        by_block = reader._parse_clean(line + b"\n", 1)
        reason = LAYOUT.fault(line, reader.fields, reader.separator)
        assert (by_block is None) == (reason is not None), (line, reason)
