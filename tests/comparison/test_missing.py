"""What is hidden from the patients that are scored."""

import pytest

from hospital import a_study
from polyclinic.comparison.missing import Missing, parse_missing
from polyclinic.errors import StudyError

STUDY = a_study({"cxr": 6, "metadata": 4})


def test_a_modality_and_its_rates_are_read_and_named() -> None:
    found = parse_missing("metadata:0,0.25,.5,1,1", STUDY)
    assert found == Missing("metadata", (0.0, 0.25, 0.5, 1.0))
    names = [found.name("own", rate) for rate in found.rates]
    assert names == [f"own, metadata {percent} % missing" for percent in (0, 25, 50, 100)]


@pytest.mark.parametrize(
    "text", ["", "metadata", "metadata:", "metadata:half", "labs:0", "cxr:0,1.5", "cxr:nan"]
)
def test_anything_else_is_refused_with_the_modalities_there_are(text: str) -> None:
    with pytest.raises(StudyError, match="cxr, metadata"):
        parse_missing(text, STUDY)
