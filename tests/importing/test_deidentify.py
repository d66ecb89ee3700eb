"""What leaves a DICOM header, and that nothing else does."""

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from canary_film import DX, PATIENT, WORD, canary, film, pixels, places, written
from polyclinic.data.flaw import Flaw
from polyclinic.importing.actions import ACTIONS, CODES, ITEM_ACTIONS
from polyclinic.importing.deidentify import deidentify, text_is_likely
from polyclinic.importing.dicom_file import clean_dicom
from polyclinic.importing.pseudonym import uid

KEY = bytes(range(32))
NAME = "ptestpseudonym"
TABLE = Path(__file__).parent / "ps315_table_e1_1.csv"
# Table E.1-1 of DICOM PS3.15 2024b, column "Basic Profile", without the repeating groups (curves
# and overlays), which have tests of their own.
PROFILE = {
    int(row["tag"], 16): row["action"]
    for row in csv.DictReader(TABLE.read_text().splitlines())
    if int(row["tag"], 16) >> 16 > 4  # no commands, file meta or directory records
}
# Retain Patient Characteristics Option.
RETAINED = {"PatientSex", "PatientAge"}
CHARSETS = {"ascii": "", "latin": "ISO_IR 100", "cyrillic": "ISO_IR 144", "japanese": "ISO_IR 192"}


def cleaned(data: bytes, **options: str) -> Dataset:
    """The dataset of a cleaned file, as any reader sees it."""
    return dcmread(io.BytesIO(clean_dicom(data, KEY, NAME, **options)[0]))


def is_right(tag: int, action: str, before: Dataset, after: Dataset) -> bool:
    """Whether the action of the profile was carried out on one attribute."""
    keyword = keyword_for_tag(tag)
    if keyword in RETAINED:
        return bool(after[tag].value == before[tag].value)
    if tag not in after:
        return True  # removal is at least as strict as every other action of the table
    if "U" in action:
        return bool(after[tag].value == uid(KEY, str(before[tag].value)))
    return action != "X" and str(after[tag].value or "") in ("", NAME)


@pytest.mark.parametrize("charset", CHARSETS)
def test_b09_the_actions_of_the_basic_profile_are_carried_out(charset: str) -> None:
    right = checks = 0
    # Three files, each with a third of the table: one element of a kind would hide another's fault.
    for part in range(3):
        dataset, words = film(), [PATIENT.encode(), WORD.encode()]
        if CHARSETS[charset]:
            dataset.SpecificCharacterSet = CHARSETS[charset]
        kept = {"SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID"}
        tags = [t for t in sorted(PROFILE)[part::3] if keyword_for_tag(t) not in kept]
        for number, tag in enumerate(tags):
            element, forbidden = canary(tag, 1000 * part + number, charset)
            dataset.add(element)
            if keyword_for_tag(tag) not in RETAINED:
                words += forbidden
        dataset.PatientSex, dataset.PatientAge = "F", "045Y"
        raw = written(dataset)
        result = clean_dicom(raw, KEY, NAME)[0]
        before, after = dcmread(io.BytesIO(raw)), dcmread(io.BytesIO(result))
        found = [w for w in words if w in result]
        assert found == []
        for tag in [*tags, *(tag_for_keyword(k) or 0 for k in sorted(kept))]:
            checks += 1
            right += is_right(tag, PROFILE[tag], before, after)
    assert checks > 600
    assert right / checks >= 0.999  # 621 of 621 when this was written


def test_b09_every_attribute_that_is_kept_is_one_the_profile_lets_pass() -> None:
    for keyword, action in ACTIONS.items():
        said = PROFILE.get(tag_for_keyword(keyword) or 0, "K")
        agreed = {"keep": "K", "code": "K", "items": "K", "pixels": "K"}.get(action, said)
        assert said == agreed or keyword in RETAINED, keyword
        assert (action == "uid") == (said == "U")


def test_every_attribute_of_the_dictionary_that_is_not_on_the_list_is_removed() -> None:
    from pydicom.datadict import DicomDictionary

    dataset = film()
    others = [
        t
        for t in DicomDictionary
        if t > 0x0008_0000
        and t < 0x7FE0_0000
        and keyword_for_tag(t) not in {*ACTIONS, "SOPClassUID"}
        if dictionary_VR(t) in ("LO", "SH", "PN", "LT", "ST", "UT", "CS", "DA", "TM", "DT", "SQ")
    ]
    for number, tag in enumerate(others):
        dataset.add(canary(tag, number)[0])
    after = deidentify(dataset, KEY, NAME)
    added = {"PatientIdentityRemoved", "DeidentificationMethod", "PatientName"}
    added |= {"LongitudinalTemporalInformationModified"}
    assert len(others) > 2500
    assert {e.keyword for e in after} - added <= {*ACTIONS, "SOPClassUID"}


def test_b09_no_canary_of_any_place_is_in_the_file() -> None:
    dataset = film()
    for _, tag, vr, value in places():
        said: object = value if vr in ("OB", "OW", "UN") else value.decode()
        dataset.add(DataElement(tag, vr, said))
    inner = Dataset()
    inner.LUTDescriptor, inner.LUTExplanation = [4, 0, 16], "KANARI-in-a-kept-sequence"
    inner.add_new("LUTData", "US", [0, 1, 2, 3])
    inner.add_new(0x00091001, "LO", "KANARI-private-within")
    deeper = Dataset()
    deeper.PatientName = "KANARI^deep"
    inner.ReferencedImageSequence = Sequence([deeper])
    dataset.VOILUTSequence = Sequence([inner])
    dataset.BodyPartExamined, dataset.ViewPosition = "KANARI", "AP"
    dataset.ImageType = ["ORIGINAL", "KANARI"]
    dataset.PixelData = dataset.PixelData + b"KANARI-after-the-last-pixel."
    dataset.file_meta = Dataset()
    dataset.file_meta.SourceApplicationEntityTitle = "KANARI-AE"
    dataset.file_meta.add_new(0x00020100, "UI", "1.2.3.4711")
    dataset.file_meta.add_new(0x00020102, "OB", b"KANARI-private-meta-")
    raw = written(dataset, preamble=b"KANARI".ljust(128, b"K")) + b"KANARI-after-the-dataset"
    assert raw.count(b"KANARI") > 15

    result, header = clean_dicom(raw, KEY, NAME)

    assert b"KANARI" not in result
    assert result[:128] == b"\0" * 128
    assert "BodyPartExamined" not in header
    assert "ImageType" not in header
    assert header.ViewPosition == "AP"
    (item,) = dcmread(io.BytesIO(result)).VOILUTSequence
    assert [e.keyword for e in item] == ["LUTDescriptor", "LUTData"]


def test_b02_b09_whatever_is_damaged_no_word_comes_through() -> None:
    dataset = film(PatientName="KANARI^A", StudyDescription="KANARI", ViewPosition="AP")
    for _, tag, vr, value in places():
        dataset.add(DataElement(tag, vr, value if vr in ("OB", "OW", "UN") else value.decode()))
    sound, rng, taken = written(dataset), random.Random(0), 0
    for _ in range(400):
        raw = bytearray(sound)
        for _ in range(rng.randint(1, 6)):
            raw[rng.randrange(132, len(raw))] = rng.randrange(256)
        try:
            clean, _ = clean_dicom(bytes(raw), KEY, NAME)
        except Exception:  # refused: ``guarded`` makes one error of them all
            continue
        assert WORD.encode() not in clean
        taken += 1
    assert taken > 100


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SliceThickness", "5 KANARI"),
        ("WindowCenter", "KANARI"),
        ("InstanceNumber", "12KANARI"),
        ("RescaleSlope", "1_0"),
        ("PatientSex", "KANARI"),
        ("Laterality", "LKANARI"),
        ("PatientAge", "KAN"),
    ],
)
def test_a_word_in_the_place_of_a_number_or_code_is_removed(keyword: str, value: str) -> None:
    dataset = film()
    tag = tag_for_keyword(keyword) or 0
    dataset.add_new(tag, "LO", "x")
    raw = written(dataset)
    # The file says the dictionary's type and holds the word: no writer would do so willingly.
    vr = dictionary_VR(tag)
    place = tag.to_bytes(4, "little")[2:] + tag.to_bytes(4, "little")[:2]
    old = place + b"LO\x02\x00x "
    padded = value.encode() + b" " * (len(value) % 2)
    assert raw.count(old) == 1
    raw = raw.replace(old, place + vr.encode() + len(padded).to_bytes(2, "little") + padded)
    assert keyword not in clean_dicom(raw, KEY, NAME)[1]


def test_an_attribute_of_another_type_than_the_dictionarys_is_removed() -> None:
    dataset = film()
    dataset.add_new("SliceThickness", "LO", "5")
    assert "SliceThickness" not in deidentify(dataset, KEY, NAME)


def test_a_lookup_table_longer_than_it_says_is_removed() -> None:
    item = Dataset()
    item.LUTDescriptor = [2, 0, 16]
    item.add_new("LUTData", "OW", b"\0\0\1\0KANARI-after-two-entries")
    after = deidentify(film(VOILUTSequence=Sequence([item])), KEY, NAME)
    # Items are filtered by their own list, and checked as the whole is.
    assert "LUTData" not in after.VOILUTSequence[0]


def test_what_pixels_and_geometry_need_is_unchanged() -> None:
    kept = {"ImagePositionPatient": ["1.5", "-2", "0"], "WindowCenter": "2048", "EchoTime": "90.1"}
    before = film(**kept, ViewPosition="PA", PatientSex="F", BurnedInAnnotation="NO")
    after = cleaned(written(before))
    for keyword in [*kept, "PixelSpacing", "Rows", "ViewPosition", "PatientSex", "SOPClassUID"]:
        assert after[keyword].value == before[keyword].value
    assert (after.pixel_array == pixels()).all()
    assert after.PatientIdentityRemoved == "YES"
    assert after.PatientID == after.PatientName == NAME
    assert len(after.DeidentificationMethod) <= 64


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    ],
)
def test_pixels_survive_every_native_syntax(syntax: str) -> None:
    dataset = film()
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels().byteswap().tobytes()
    assert (cleaned(written(dataset, syntax)).pixel_array == pixels()).all()


def test_bits_above_the_stored_ones_are_cleared() -> None:
    spoiled = pixels() | np.uint16(0xA000)
    raw = written(film(PixelData=spoiled.tobytes()))
    assert cleaned(raw).PixelData == pixels().tobytes()


def test_signed_pixels_keep_their_sign() -> None:
    signed = pixels().astype("<i2") - 2048
    raw = written(film(PixelData=signed.tobytes(), PixelRepresentation=1))
    assert cleaned(raw).PixelData == signed.tobytes()


def test_uids_are_replaced_by_the_same_others_and_by_no_one_without_the_key() -> None:
    first, second = deidentify(film(), KEY, NAME), deidentify(film(), KEY, NAME)
    other = deidentify(film(), bytes(32), NAME)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID != film().SeriesInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID
    assert first.SeriesInstanceUID != first.StudyInstanceUID
    assert first.SOPInstanceUID.startswith("2.25.")
    assert first.SOPInstanceUID.is_valid


@pytest.mark.parametrize(
    ("attributes", "age"),
    [
        ({"PatientAge": "045Y"}, "045Y"),
        ({"PatientAge": "089Y"}, "089Y"),
        ({"PatientAge": "095Y"}, "090Y"),
        ({"PatientAge": "018M"}, "018M"),
        ({"PatientAge": "010D"}, "000M"),
        ({"PatientBirthDate": "19500630", "StudyDate": "20200629"}, "069Y"),
        ({"PatientBirthDate": "19500630", "StudyDate": "20200630"}, "070Y"),
        ({"PatientBirthDate": "19200630", "StudyDate": "20200630"}, "090Y"),
        ({"PatientBirthDate": "19500630"}, ""),
        ({}, ""),
    ],
)
def test_b09_dates_go_and_age_stays_capped(attributes: dict[str, str], age: str) -> None:
    after = deidentify(film(**attributes), KEY, NAME)
    assert after.get("PatientAge", "") == age
    assert not after.get("PatientBirthDate")
    assert not after.get("StudyDate")


@pytest.mark.parametrize(
    ("attributes", "likely"),
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"RecognizableVisualFeatures": "YES"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"ConversionType": "WSD"}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, True),
        ({"Modality": "US"}, True),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": "NO"}, False),
        ({"BurnedInAnnotation": "NO"}, False),
        ({}, False),
    ],
)
def test_b09_films_with_text_in_their_pixels_are_set_aside(
    attributes: dict[str, object], likely: bool
) -> None:
    assert text_is_likely(film(**attributes)) is likely
    raw = written(film(**attributes))
    if likely:
        with pytest.raises(Flaw) as caught:
            clean_dicom(raw, KEY, NAME)
        assert caught.value.reason == "burned_in"
    assert cleaned(raw, burned_in="accept").PatientID == NAME


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SOPClassUID": "1.2.3.4"}, "not_an_image"),
        ({"NumberOfFrames": 5}, "multi_frame"),
        ({"PixelData": b"\0\0"}, "unreadable"),
        ({"PhotometricInterpretation": "KANARI"}, "bad_header"),
    ],
)
def test_what_cannot_be_cleaned_is_refused(attributes: dict[str, object], reason: str) -> None:
    with pytest.raises(Flaw) as caught:
        clean_dicom(written(film(**attributes)), KEY, NAME)
    assert caught.value.reason == reason


def test_the_original_dataset_is_not_changed() -> None:
    dataset = film(PatientName="A^B")
    before = dataset.to_json()
    deidentify(dataset, KEY, NAME)
    assert dataset.to_json() == before


def test_every_keyword_of_the_lists_is_dicoms() -> None:
    assert all(tag_for_keyword(k) for k in {**ACTIONS, **ITEM_ACTIONS})
    coded = {k for k, a in {**ACTIONS, **ITEM_ACTIONS}.items() if a == "code"}
    assert coded == set(CODES)
    assert DX.endswith("1.1.1")
