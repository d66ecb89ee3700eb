"""A strange table is equal to its clean twin or refused (B12)."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.data.quarantine import TABLE_REASONS
from polyclinic.data.table import decode, parse, read_bytes
from polyclinic.errors import DataRejected

CLEAN = "patient_id,name,x\np1,Müller,1.5\np2,Strauß,-2\n"


def cells(raw: bytes) -> list[list[str]]:
    """Header and rows, None rows left out."""
    table = parse(raw, ("patient_id",))
    return [list(table.header), *(row for _, row in table.rows() if row is not None)]


TWINS = {
    "utf-8 mark": CLEAN.encode("utf-8-sig"),
    "utf-16 little": b"\xff\xfe" + CLEAN.encode("utf-16-le"),
    "utf-16 big": b"\xfe\xff" + CLEAN.encode("utf-16-be"),
    "utf-32": b"\xff\xfe\x00\x00" + CLEAN.encode("utf-32-le"),
    "latin-1": CLEAN.encode("latin-1"),
    "crlf": CLEAN.replace("\n", "\r\n").encode(),
    "old mac": CLEAN.replace("\n", "\r").encode(),
    "semicolon": CLEAN.replace(",", ";").encode(),
    "tab": CLEAN.replace(",", "\t").encode(),
    "pipe": CLEAN.replace(",", "|").encode(),
    "no last newline": CLEAN.rstrip("\n").encode(),
    "blank lines": CLEAN.replace("\n", "\n\n").encode(),
    "padded": CLEAN.replace(",", " , ").encode(),
    "quoted": ('"' + CLEAN.strip().replace(",", '","').replace("\n", '"\n"') + '"\n').encode(),
}


@pytest.mark.parametrize("raw", TWINS.values(), ids=TWINS.keys())
def test_b12_a_strange_table_reads_as_its_clean_twin(raw: bytes) -> None:
    assert cells(raw) == cells(CLEAN.encode())


def test_b12_a_cell_of_a_million_characters_is_read_whole() -> None:
    assert len(cells(b"patient_id,x\np1," + b"9" * 10**6)[1][1]) == 10**6


REFUSED = {
    "NUL": (b"patient_id,x\np1,\x00\n", "control_characters"),
    "utf-16 without mark": (CLEAN.encode("utf-16-le"), "control_characters"),
    "odd utf-16": (b"\xff\xfe" + CLEAN.encode("utf-16-le")[:-1], "unreadable_table"),
    "open quote": (b'patient_id,x\np1,"1\n', "malformed_table"),
    "cell beyond the limit": (b"patient_id,x\np1," + b"9" * (2**24 + 1), "malformed_table"),
    "empty file": (b"", "no_patient_column"),
    "other header": (b"case,x\np1,1\n", "no_patient_column"),
    "repeated column": (b"patient_id,x,x\np1,1,2\n", "duplicate_columns"),
}


@pytest.mark.parametrize(("raw", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_b12_what_cannot_be_read_is_refused_with_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(DataRejected) as refusal:
        cells(raw)
    assert refusal.value.reason == reason
    assert reason in TABLE_REASONS
    assert len(refusal.value.file_hash) == 12


def test_a_row_of_another_length_is_told_by_its_line() -> None:
    table = parse(b"patient_id,x\np1,1\np2,1,2\np3,3\n", ("patient_id",))
    assert [line for line, row in table.rows() if row is None] == [3]


def test_a_line_break_inside_quotes_is_part_of_the_cell() -> None:
    assert cells(b'patient_id,x\np1,"a\nb"\n')[1] == ["p1", "a\nb"]


def test_a_header_with_commas_in_names_is_read_by_the_delimiter_that_shows_the_key() -> None:
    assert cells(b'patient_id;"a,b,c,d";x\np1;2;3\n') == [
        ["patient_id", "a,b,c,d", "x"],
        ["p1", "2", "3"],
    ]


def test_an_absent_table_is_refused_without_its_path(tmp_path) -> None:
    with pytest.raises(DataRejected) as refusal:
        read_bytes(tmp_path / "secret-name.csv")
    assert "secret-name" not in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_b12_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for raw in (noise, b"patient_id,x\n" + noise):
        reason, rows = "", [[""]]
        try:
            rows = cells(raw)
        except DataRejected as refusal:
            reason = refusal.reason
        assert not reason or reason in TABLE_REASONS
        assert all(len(row) == len(rows[0]) for row in rows)


text = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1, max_size=12
).map(str.strip)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(text, text), min_size=1, max_size=5),
    st.sampled_from(["utf-8-sig", "utf-16", "utf-8"]),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_b12_any_cells_survive_any_export(rows, encoding, delimiter, newline) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=newline)
    writer.writerows([("patient_id", "x"), *rows])
    expected = [["patient_id", "x"], *([p, x] for p, x in rows)]
    assert cells(file.getvalue().encode(encoding)) == expected


def test_latin_1_is_the_last_resort_only() -> None:
    assert decode("é".encode()) == "é"
    assert decode("é".encode("latin-1")) == "é"
