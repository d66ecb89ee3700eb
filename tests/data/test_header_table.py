"""Numbers of DICOM headers: an allow-list of keywords, read by a study's rules."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from polyclinic.data.header_table import KEYWORDS
from polyclinic.data.quarantine import file_hash
from polyclinic.errors import DataError, StudyError

CANARY = "CANARY-8841"
FIELDS = {
    "age": {"column": "PatientAge", "reads": "age"},
    "is_male": {
        "column": "PatientSex",
        "reads": "category",
        "category": "M",
        "among": ["F", "M"],
    },
    "rows": {"column": "Rows", "low": 1, "high": 10_000},
}


def header(path: Path, **elements: object) -> None:
    """A DICOM file without pixels."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.PatientName = CANARY
    for keyword, value in elements.items():
        setattr(file, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def films(hospital, fields: dict[str, object] = FIELDS) -> list[str]:
    """Eight patients and a modality of headers."""
    ids = hospital.patients(8)
    hospital.modalities["meta"] = {"kind": "vector", "folder": "films"}
    hospital.study_modalities["meta"] = {
        "kind": "vector",
        "features": list(fields),
        "fields": fields,
    }
    return ids


def test_the_headers_of_a_patients_films_are_a_row(hospital) -> None:
    ids = films(hospital)
    for i, p in enumerate(ids):
        sex = "MF"[i % 2]
        header(
            hospital.root / "films" / f"{p}.dcm",
            PatientAge=f"0{40 + i}Y",
            PatientSex=sex,
            Rows=i + 5,
        )
    column = hospital.open().records.readings["meta"].column
    assert column.fields.all()
    assert column.values[:, 0].tolist() == [40.0 + i for i in range(8)]
    assert column.values[:, 1].tolist() == [1.0, 0.0] * 4
    assert column.values[:, 2].tolist() == [5.0 + i for i in range(8)]


def test_b13_what_a_header_lacks_or_garbles_is_masked_and_told(hospital) -> None:
    ids = films(hospital)
    cards = [
        {"PatientAge": "095Y", "PatientSex": "M"},
        {"PatientSex": "F"},
        {"PatientAge": "130Y", "PatientSex": "O"},
        {"PatientAge": "", "PatientSex": ""},
        {"PatientAge": "018M"},
        {"PatientAge": "077Y"},
    ]
    for p, card in zip(ids, cards, strict=False):
        header(hospital.root / "films" / f"{p}.dcm", Rows=5, **card)
    garbled = hospital.root / "films" / f"{ids[5]}.dcm"
    garbled.write_bytes(garbled.read_bytes().replace(b"077Y", b"fort"))
    hospital.options["max_loss_fraction"] = 1.0
    reading = hospital.open().records.readings["meta"]
    found = torch.where(reading.column.fields, reading.column.values, float("nan"))
    nan = np.nan
    expected = [[90, 1, 5], [nan, 0, 5], *[[nan, nan, 5]] * 2, [1.5, nan, 5], [nan, nan, 5]]
    np.testing.assert_array_equal(found[:6].numpy(), np.float32(expected))
    flawed = file_hash(hospital.root / "films" / f"{ids[2]}.dcm")
    assert [(e.reason, e.reference) for e in reading.entries] == [
        ("impossible_value", flawed),
        ("unknown_category", flawed),
    ]
    # Age of two; sex of three. What pydicom calls no age string is text, or dropped as broken.
    assert sum(reading.absent.values()) == 6
    listed = (hospital.root / "state" / "quarantine" / "tiny.csv").read_text()
    assert CANARY not in listed
    assert ids[2] not in listed


def test_a_file_that_is_no_dicom_costs_itself_and_another_of_the_patient_serves(hospital) -> None:
    ids = films(hospital)
    for p in ids:
        header(hospital.root / "films" / p / "b.dcm", PatientAge="040Y", PatientSex="F", Rows=5)
    (hospital.root / "films" / ids[0] / "a.dcm").write_bytes(b"no film")
    hospital.options["max_loss_fraction"] = 1.0
    reading = hospital.open().records.readings["meta"]
    assert reading.column.fields.all()
    (entry,) = reading.entries
    assert entry.reference == file_hash(hospital.root / "films" / ids[0] / "a.dcm")
    assert not entry.partial


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "PatientBirthDate", "StudyDate"])
def test_no_name_id_or_date_can_be_made_a_feature(hospital, keyword: str) -> None:
    films(hospital, {"x": {"column": keyword}})
    (hospital.root / "films").mkdir()
    with pytest.raises(StudyError, match="'x'"):
        hospital.open()
    assert keyword not in KEYWORDS


def test_b13_an_age_is_read_as_an_age_so_that_no_job_counts_the_oldest(hospital) -> None:
    exact = {"column": "PatientAge", "reads": "category", "category": "097Y", "among": ["097Y"]}
    films(hospital, {"x": exact})
    (hospital.root / "films").mkdir()
    with pytest.raises(StudyError, match="read as an age"):
        hospital.open()


def test_a_folder_that_is_not_there_is_told(hospital) -> None:
    films(hospital)
    with pytest.raises(DataError, match="folder"):
        hospital.open()
