import csv

import pytest

from polyclinic.data.quarantine import REASONS, TABLE_REASONS, Entry, QuarantineReport, file_hash
from polyclinic.errors import DataError

REPORT = QuarantineReport(
    (
        Entry("bad_label", "", "manifest line 3", "secret-1"),
        Entry("not_finite", "wsi", "aaaaaaaaaaaa", "secret-1"),
        Entry("not_finite", "wsi", "bbbbbbbbbbbb", "secret-2"),
        Entry("ragged_row", "cnv", "line 9"),
    ),
    patients=100,
)


def test_counts_are_by_reason() -> None:
    assert REPORT.counts == {"bad_label": 1, "not_finite": 2, "ragged_row": 1}


def test_a_patient_counts_once_and_a_row_without_patient_counts_as_one() -> None:
    assert REPORT.affected == 3
    assert REPORT.fraction == pytest.approx(0.03)


def test_an_empty_report_has_lost_nothing() -> None:
    assert QuarantineReport().fraction == 0.0
    QuarantineReport().require(0.0)


def test_the_limit_is_the_largest_share_allowed() -> None:
    REPORT.require(0.03)
    with pytest.raises(DataError, match="max_loss_fraction"):
        REPORT.require(0.029)


def test_a_refused_cohort_is_refused_without_a_number_or_a_patient() -> None:
    with pytest.raises(DataError) as refusal:
        REPORT.require(0.029)
    assert not any(c.isdigit() for c in str(refusal.value))
    assert "secret" not in str(refusal.value)


def test_the_list_holds_lines_and_hashes_but_no_patient(tmp_path) -> None:
    path = tmp_path / "state" / "list.csv"
    REPORT.write(path)
    assert "secret" not in path.read_text()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["reference"] for r in rows] == [e.reference for e in REPORT.entries]
    assert rows[0]["meaning"] == REASONS["bad_label"]
    assert [p.name for p in path.parent.iterdir()] == ["list.csv"]


def test_no_patient_is_in_the_representation() -> None:
    assert "secret" not in repr(REPORT)


def test_every_reason_can_be_the_name_of_a_metric() -> None:
    assert all(code.replace("_", "").isalpha() and code.islower() for code in REASONS)
    assert not set(REASONS) & set(TABLE_REASONS)


def test_a_hash_is_twelve_hex_digits_of_the_bytes(tmp_path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    # SHA-256 of "abc", FIPS 180-2 appendix B.1.
    assert file_hash(tmp_path / "f") == "ba7816bf8f01"
    assert file_hash(tmp_path / "absent") == ""


def test_single_values_are_listed_and_counted_but_cost_no_patient_and_do_not_leave() -> None:
    value = Entry("impossible_value", "labs", "line 4", "secret-3", partial=True)
    report = REPORT.joined([value, Entry("no_time", "vitals", "more", partial=True, count=40)])
    assert report.affected == REPORT.affected
    assert report.counts == REPORT.counts | {"impossible_value": 1, "no_time": 40}
    assert report.lost == REPORT.counts


@pytest.mark.parametrize("start", ["=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_b14_no_cell_of_the_list_starts_a_formula(tmp_path, start: str) -> None:
    path = tmp_path / "list.csv"
    QuarantineReport((Entry("impossible_value", start, start),), 1).write(path)
    with path.open(newline="") as file:
        cells = [c for row in csv.reader(file) for c in row]
    assert f"'{start}" in cells
    assert not [c for c in cells if c[:1] in "=+-@\t\r"]
