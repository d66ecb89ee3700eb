"""A YAML file with a fault is refused in words that lead to the fault and quote nothing."""

from pathlib import Path

import pytest

from polyclinic.errors import SiteError
from polyclinic.settings import load_settings

SOURCE = "cohorts: {demo: {modalities: {wsi: {kind: bag, %s}}}}"


def refusal(path: Path) -> str:
    with pytest.raises(SiteError) as caught:
        load_settings(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site: a\nstorage: [", "a fault at line 2, column 11"),
        ("storage: here", "Expected 'site' in polyclinic.yaml, got nothing; add it"),
        ("", "Expected fields with values in polyclinic.yaml, got none"),
        ("site: a\nminimum_cel: 3", "got 'minimum_cel'; rename or remove it: did you mean"),
        ("site: a\nminimum_cel: 3", "did you mean 'minimum_cell'?"),
        ("site: a\n" + SOURCE % "foldr: x", "did you mean 'folder'?"),
        ("site: a\n" + SOURCE % "folder: x, zzz: 1", "known are burned_in, evaluation_only, "),
        ("site: a\n" + SOURCE % "units: x", "a bag needs folder"),
        ("site: a\nminimum_cell: 0\nthreads: 0", "(and 1 more faults)"),
    ],
)
def test_a_fault_is_told_where_it_is(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "polyclinic.yaml"
    path.write_text(text)
    assert words in refusal(path)


def test_a_missing_file_a_folder_and_bytes_are_told_apart(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"site: \xff\xfe")
    told = [refusal(p) for p in (tmp_path / "none.yaml", tmp_path, binary)]
    assert "got no such file; give the path of the file" in told[0]
    assert "got a folder" in told[1]
    assert "got bytes that are no plain text" in told[2]


def test_a_message_quotes_nothing_of_the_file(tmp_path: Path) -> None:
    """The YAML parser itself would quote the alias."""
    path = tmp_path / "polyclinic.yaml"
    path.write_text("site: *MRN4711")
    assert "MRN4711" not in refusal(path)
