"""A folder of files becomes a site folder: whole, joined, without identities, again and again."""

import csv
import errno
import gzip
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image, PngImagePlugin
from pydicom import dcmread

from canary_film import PATIENT, film, written
from polyclinic.data.table import parse
from polyclinic.errors import DataError, SiteError
from polyclinic.importing import copies
from polyclinic.importing.people import People
from polyclinic.importing.plan import ImportPlan
from polyclinic.importing.pseudonym import KEY_NAME, load_key, pseudonym
from polyclinic.importing.site_folder import Imported, import_folder

IDS = [f"KANARI-{n}" for n in range(6)]
WORD = b"KANARI"


def plan(**changes: Any) -> ImportPlan:
    """What the hospital below says about its folder."""
    said: dict[str, Any] = {
        "site": "hosp-a",
        "cohort": "tiny",
        "labels": {"table": "labels.csv", "id": "PATNR", "columns": {"outcome": "DIAG"}},
        "modalities": {
            "film": {"kind": "image", "files": "films/**/*", "patient": {"dicom": "PatientID"}},
            "picture": {
                "kind": "image",
                "files": "pictures/*.png",
                "patient": {"table": "whose.csv", "file": "FILE", "id": "PATNR"},
            },
            "scan": {
                "kind": "volume",
                "files": "scans/*/*.nii.gz",
                "of": "nifti",
                "patient": {"folder": 2},
                "sequences": {"t1": r"T1\.", "flair": r"FLAIR\."},
            },
            "labs": {
                "kind": "vector",
                "table": "labs.csv",
                "id": "PATNR",
                "columns": {"hb": "HB", "remark": "REMARK", "ward": "WARD"},
                "age": {"column": "age", "born": "BORN", "at": "SEEN"},
            },
        },
    }
    return ImportPlan.model_validate(said | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A hospital's export in which every name and text says whose it is."""
    root = tmp_path / "export"
    for n, patient in enumerate(IDS):
        place = root / "films" / f"{patient}_SURNAME"
        place.mkdir(parents=True)
        dataset = film(PatientID=patient, PatientName=f"{patient}^Jane", StudyID=patient)
        dataset.SOPInstanceUID = f"1.2.3.{n}"
        (place / f"{patient}.dcm").write_bytes(written(dataset, preamble=WORD.ljust(128)))
        write_scan(root / "scans" / patient / f"{patient}_T1.nii.gz", patient)
        write_scan(root / "scans" / patient / f"{patient}_LESION.nii.gz", patient)
        write_picture(root / "pictures" / f"{patient}.png", patient)
    rows = [(p, "ill" if n % 2 else "well") for n, p in enumerate(IDS)]
    write_csv(root / "labels.csv", ("PATNR", "DIAG"), rows)
    write_csv(root / "whose.csv", ("FILE", "PATNR"), [(f"{p}.png", p) for p in IDS])
    labs = [
        (p, f"1{n},5", f"{p} fell ill", "A" if n % 2 else "B", f"19{n}0-02-03", "2020-02-02")
        for n, p in enumerate(IDS)
    ]
    header = ("PATNR", "HB", "REMARK", "WARD", "BORN", "SEEN")
    write_csv(root / "labs.csv", header, labs, delimiter=";")
    return root


def write_csv(path: Path, header: tuple, rows: list[tuple], delimiter: str = ",") -> None:
    """A table."""
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows])


def write_scan(path: Path, patient: str) -> np.ndarray:
    """A volume whose text fields, extension and gzip header name the patient; its voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(60, dtype="<i2").reshape(3, 4, 5)
    image = nib.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    image.header["descrip"], image.header["db_name"] = patient, patient
    image.header["aux_file"], image.header["intent_name"] = patient, patient
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, f"{patient} comment".encode()))
    raw = image.to_bytes() + f"{patient} after the voxels".encode()
    with path.open("wb") as stream, gzip.GzipFile(f"{patient}.nii", "wb", fileobj=stream) as file:
        file.write(raw)
    return voxels


def write_picture(path: Path, patient: str) -> None:
    """A PNG with text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", patient)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(path, pnginfo=info)


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a written table."""
    read = parse(path.read_bytes(), ("patient_id",))
    return [dict(zip(read.header, row or [], strict=True)) for _, row in read.rows()]


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder, compressed ones inflated, too."""
    found = {}
    for path in out.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            found[str(path.relative_to(out))] = raw
            if raw[:2] == b"\x1f\x8b":
                found[f"{path.relative_to(out)} inflated"] = gzip.decompress(raw)
    return found


def test_b09_no_canary_is_in_any_name_or_byte_of_the_site_folder(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "site"
    raw = contents(folder)
    assert sum(WORD in content for content in raw.values()) == len(raw)
    result = import_folder(folder, out, plan())
    made = contents(out)
    assert len(made) > 30
    assert [n for n, content in made.items() if WORD in content or "KANARI" in n] == []
    assert [n for n, content in made.items() if b"SURNAME" in content] == []
    assert "KANARI" not in repr(result)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_images_volumes_and_tables_join_by_one_pseudonym(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    result = import_folder(folder, out, plan())
    key = load_key(out / "state")
    expected = {pseudonym(key, p) for p in IDS}
    assert len(expected) == result.patients == 6
    for name in ("manifest.csv", "film/files.csv", "picture/files.csv", "tables/labs.csv"):
        assert {row["patient_id"] for row in table(out / name)} == expected
    assert {r["sequence"] for r in table(out / "scan/files.csv")} == {"t1"}
    assert result.files["scan"].passed == 6  # LESION is none of the plan's sequences
    for row in table(out / "film" / "files.csv"):
        assert dcmread(out / "film" / row["file"]).PatientID == row["patient_id"]
    labels = {r["patient_id"]: r["outcome"] for r in table(out / "manifest.csv")}
    assert labels == {pseudonym(key, p): "ill" if n % 2 else "well" for n, p in enumerate(IDS)}


def test_voxels_affine_and_pixels_are_unchanged(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    voxels = write_scan(folder / "scans" / IDS[0] / "x_FLAIR.nii.gz", IDS[0])
    import_folder(folder, out, plan())
    (flair,) = (out / "scan").glob("*_flair_*.nii.gz")
    image = nib.load(flair)
    assert (np.asarray(image.dataobj) == voxels).all()
    assert (image.affine == np.diag([1.0, 2.0, 3.0, 1.0])).all()
    assert len(image.header.extensions) == 0
    (first, *_) = sorted((out / "picture").glob("*.png"))
    assert (np.asarray(Image.open(first)) == np.arange(64).reshape(8, 8)).all()


def test_of_a_table_come_numbers_codes_and_ages_but_no_remarks_or_dates(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    result = import_folder(folder, out, plan())
    rows = table(out / "tables" / "labs.csv")
    key = load_key(out / "state")
    by_id = {r.pop("patient_id"): r for r in rows}
    # Born in 1900, 1910, ... on 3 February and seen on 2 February 2020, a day before the birthday.
    ages = ["90+", "90+", "90+", "89", "79", "69"]
    for n, patient in enumerate(IDS):
        expected = {"hb": f"1{n},5", "ward": "A" if n % 2 else "B", "age": ages[n]}
        assert by_id[pseudonym(key, patient)] == expected
    assert result.tables["labs"].dropped == {"remark": "free text"}
    assert not result.ok(plan())


def test_a_second_run_takes_over_only_what_is_new(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    first = import_folder(folder, out, plan())
    before = {n: os.stat(out / n).st_mtime_ns for n in contents(out) if n.endswith((".dcm", "png"))}
    extra = film(PatientID=IDS[0])
    (folder / "films" / "KANARI.dcm").write_bytes(written(extra))
    second = import_folder(folder, out, plan())
    third = import_folder(folder, out, plan())
    assert [r.files["film"].new for r in (first, second, third)] == [6, 1, 0]
    assert [r.files["film"].seen for r in (first, second, third)] == [6, 7, 7]
    assert {n: os.stat(out / n).st_mtime_ns for n in before} == before
    assert len(table(out / "film" / "files.csv")) == 7


def test_a_run_that_was_interrupted_goes_on_where_it_ended(folder: Path, tmp_path: Path) -> None:
    out, done = tmp_path / "site", []

    def stop(files: int) -> None:
        done.append(files)
        if len(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_folder(folder, out, plan(), stop)
    journal = out / "state" / "import" / "tiny.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])  # the last line is torn
    (out / "film" / ".half.dcm.x.tmp").write_bytes(b"half")
    result = import_folder(folder, out, plan())
    assert result.files["film"].new == 6 - 3
    assert len(table(out / "film" / "files.csv")) == 6
    assert list((out / "film").glob(".*")) == []


def test_a_file_that_changed_replaces_its_copy(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    import_folder(folder, out, plan())
    place = folder / "films" / f"{IDS[0]}_SURNAME" / f"{IDS[0]}.dcm"
    place.write_bytes(written(film(PatientID=IDS[0], ViewPosition="PA", SeriesNumber=1)))
    result = import_folder(folder, out, plan())
    assert result.files["film"].new == 1
    assert len(list((out / "film").glob("*.dcm"))) == 6
    assert {"PA"} < {str(dcmread(p).get("ViewPosition")) for p in (out / "film").glob("*.dcm")}


def test_copies_of_other_rules_are_replaced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    import_folder(folder, out, plan())
    before = set((out / "film").glob("*.dcm"))
    result = import_folder(folder, out, plan(twins="same"))
    assert result.files["film"].new == 6
    after = set((out / "film").glob("*.dcm"))
    assert len(after) == 6
    assert not before & after


def test_one_bad_file_costs_itself(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    whole = (folder / "films" / f"{IDS[0]}_SURNAME" / f"{IDS[0]}.dcm").read_bytes()
    (folder / "films" / "a_empty.dcm").write_bytes(b"")
    (folder / "films" / "b_text.dcm").write_text("KANARI")
    (folder / "films" / "c_cut.dcm").write_bytes(whole[:-10])
    (folder / "films" / "d_burned.dcm").write_bytes(written(film(BurnedInAnnotation="YES")))
    (folder / "films" / "e_nobody.dcm").write_bytes(written(film(PatientID=" ")))
    result = import_folder(folder, out, plan())
    counts = result.files["film"].refused
    assert counts == {"burned_in": 1, "no_patient_id": 1, "not_an_image": 2, "unreadable": 1}
    assert result.files["film"].new == 6
    assert result.lost == pytest.approx(5 / (11 + 6 + 6 + 6 + 6))
    assert not result.ok(plan(max_loss_fraction=0.05))
    listed = (out / "state" / "quarantine" / "import-tiny.csv").read_text()
    assert len(listed.splitlines()) == 6
    assert "KANARI" not in listed
    again = import_folder(folder, out, plan())
    assert again.files["film"].refused == counts


def test_reports_beside_the_films_are_passed_over(folder: Path, tmp_path: Path) -> None:
    report = film(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    del report.PixelData
    (folder / "films" / "report.dcm").write_bytes(written(report))
    result = import_folder(folder, tmp_path / "site", plan())
    assert (result.files["film"].passed, result.files["film"].refused) == (1, {})


def test_burned_in_films_come_when_the_plan_accepts_them(folder: Path, tmp_path: Path) -> None:
    (folder / "films" / "d.dcm").write_bytes(
        written(film(PatientID=IDS[0], BurnedInAnnotation="YES"))
    )
    said = plan().model_dump(exclude_defaults=True)
    said["modalities"]["film"]["burned_in"] = "accept"
    out = tmp_path / "site"
    result = import_folder(folder, out, ImportPlan.model_validate(said))
    assert result.files["film"].new == 7
    settings = yaml.safe_load((out / "polyclinic.yaml").read_text())
    assert settings["cohorts"]["tiny"]["modalities"]["film"]["burned_in"] == "accept"


def test_ids_of_any_charset_and_encoding_join(tmp_path: Path) -> None:
    root = tmp_path / "export"
    root.mkdir()
    ids = {"ISO_IR 100": "MÜLLER-7", "ISO_IR 144": "ЖУК-8", "ISO_IR 192": "山田-9"}
    for n, (charset, patient) in enumerate(ids.items()):
        made = film(SpecificCharacterSet=charset, PatientID=patient, SOPInstanceUID=f"1.2.{n}")
        (root / f"{n}.dcm").write_bytes(written(made))
    rows = "".join(f"{p},ill\r\n" for p in ids.values())
    (root / "labels.csv").write_bytes(f"PATNR,DIAG\r\n{rows}".encode("utf-16"))
    film_only = {k: v for k, v in plan().modalities.items() if k == "film"}
    rule = film_only["film"].model_copy(update={"files": "*.dcm"})
    said = plan().model_copy(update={"modalities": {"film": rule}})
    result = import_folder(root, tmp_path / "site", said)
    films = {r["patient_id"] for r in table(tmp_path / "site" / "film" / "files.csv")}
    assert films == {r["patient_id"] for r in table(tmp_path / "site" / "manifest.csv")}
    assert (len(films), result.ok(said)) == (3, True)


def test_a_full_disk_is_no_fault_of_a_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    out = tmp_path / "site"
    with monkeypatch.context() as patch:
        patch.setattr(copies, "clean_nifti", full)
        with pytest.raises(SiteError, match="room"):
            import_folder(folder, out, plan())
    assert list((out / "scan").iterdir()) == []
    assert import_folder(folder, out, plan()).files["scan"].new == 6


def test_what_is_written_is_for_its_owner_only(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    import_folder(folder, out, plan())
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    modes = {stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*") if p.is_file()}
    assert modes == {0o600}


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "other.dcm").write_bytes(written(film(PatientID="KANARI-outside")))
    os.symlink(outside, folder / "films" / "link")
    os.symlink(outside / "other.dcm", folder / "films" / "other.dcm")
    os.mkfifo(folder / "films" / "pipe.dcm")
    result = import_folder(folder, tmp_path / "site", plan())
    assert result.files["film"].seen == 6


def test_a_table_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").rename(tmp_path / "labels.csv")
    os.symlink(tmp_path / "labels.csv", folder / "labels.csv")
    with pytest.raises(DataError, match="table of labels"):
        import_folder(folder, tmp_path / "site", plan())


@pytest.mark.parametrize("place", ["export/site", ".", "export"])
def test_the_site_folder_lies_apart(folder: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(DataError, match="apart"):
        import_folder(folder, tmp_path / place, plan())
    assert not (folder / "site").exists()


def test_storage_within_the_export_is_refused(folder: Path, tmp_path: Path) -> None:
    os.symlink(folder, tmp_path / "link")
    with pytest.raises(DataError, match="apart"):
        import_folder(folder, tmp_path / "site", plan(storage="../link/state"))


def test_a_site_folder_of_another_key_is_not_touched(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    import_folder(folder, out, plan())
    before = contents(out)
    (out / "state" / KEY_NAME).write_bytes(bytes(32))
    with pytest.raises(SiteError, match="the key that made this site folder"):
        import_folder(folder, out, plan())
    (out / "state" / KEY_NAME).unlink()
    with pytest.raises(SiteError):
        import_folder(folder, out, plan())
    after = contents(out)
    assert {n: c for n, c in before.items() if KEY_NAME not in n} == after


def test_a_folder_with_other_content_is_not_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="empty"):
        import_folder(folder, out, plan())
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]


def test_a_folder_that_holds_slides_of_the_same_key_is_joined(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    (out / "wsi").mkdir(parents=True)
    (out / "wsi" / "x.h5").write_bytes(b"features")
    load_key(out / "state")
    made = {"site": "own", "cohorts": {"tiny": {"modalities": {"wsi": {"kind": "bag"}}}}}
    (out / "polyclinic.yaml").write_text(yaml.safe_dump(made))
    import_folder(folder, out, plan())
    settings = yaml.safe_load((out / "polyclinic.yaml").read_text())
    assert settings["site"] == "own"
    assert set(settings["cohorts"]["tiny"]["modalities"]) == {"wsi", *plan().modalities}


def test_a_manifest_made_by_hand_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    load_key(out / "state")
    (out / "manifest.csv").write_text("patient_id\nmine\n")
    with pytest.raises(DataError, match="empty"):
        import_folder(folder, out, plan())
    assert (out / "manifest.csv").read_text() == "patient_id\nmine\n"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"site": "a", "storage": "elsewhere"}, "storage"),
        ({"site": "a", "cohorts": {"tiny": {"root": "/data"}}}, "lies in"),
        (["a list"], "YAML"),
    ],
)
def test_settings_that_contradict_the_plan_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, settings: object, told: str
) -> None:
    out = tmp_path / "site"
    load_key(out / "state")
    (out / "polyclinic.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SiteError, match=told):
        import_folder(folder, out, plan())
    assert {p.name for p in out.iterdir()} == {"state", "polyclinic.yaml"}


def test_two_imports_at_once_are_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"

    def second(files: int) -> None:
        with pytest.raises(SiteError, match="one import at a time"):
            import_folder(folder, out, plan())

    assert import_folder(folder, out, plan(), second).patients == 6


def test_settings_that_a_person_changed_stay(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    import_folder(folder, out, plan())
    path = out / "polyclinic.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["minimum_cell"] = 5
    modalities = settings["cohorts"]["tiny"]["modalities"]
    modalities["wsi"] = {"kind": "bag", "folder": "wsi"}
    modalities["labs"]["field_units"] = {"hb": "g/dL"}
    text = "# ours\n" + yaml.safe_dump(settings)
    path.write_text(text)
    import_folder(folder, out, plan())
    assert path.read_text() == text


def test_ids_that_look_like_one_persons_make_the_import_fail(folder: Path, tmp_path: Path) -> None:
    twin = IDS[0].lower()
    (folder / "films" / "twin.dcm").write_bytes(written(film(PatientID=twin)))
    sound = {k: v for k, v in plan().modalities.items() if k == "film"}
    refusing = plan().model_copy(update={"modalities": sound})
    result = import_folder(folder, tmp_path / "site", refusing)
    assert (result.twins, result.ok(refusing)) == (1, False)
    assert import_folder(folder, tmp_path / "site", refusing).twins == 1  # none is read anew
    folding = refusing.model_copy(update={"twins": "same"})
    result = import_folder(folder, tmp_path / "other", folding)
    assert (result.twins, result.ok(folding)) == (0, True)
    assert len({r["patient_id"] for r in table(tmp_path / "other/film/files.csv")}) == 6


def test_the_link_table_is_written_only_when_asked(folder: Path, tmp_path: Path) -> None:
    import_folder(folder, tmp_path / "a", plan())
    assert not (tmp_path / "a" / "state" / "links.csv").exists()
    import_folder(folder, tmp_path / "b", plan(link_table=True))
    path = tmp_path / "b" / "state" / "links.csv"
    key = load_key(tmp_path / "b" / "state")
    rows = list(csv.reader(path.read_text().splitlines()))
    assert sorted(rows[1:]) == sorted([pseudonym(key, p), p] for p in IDS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_slices_of_a_series_lie_in_a_folder_of_the_patient_and_sequence(tmp_path: Path) -> None:
    root = tmp_path / "export"
    root.mkdir()
    for n in range(3):
        made = film(
            Modality="MR", SOPInstanceUID=f"1.2.{n}", SeriesDescription="KANARI T1 ax",
            PatientID=PATIENT, ImagePositionPatient=[0, 0, n],
        )  # fmt: skip
        (root / f"{n}.dcm").write_bytes(written(made))
    write_csv(root / "labels.csv", ("PATNR", "DIAG"), [(PATIENT, "ill")])
    rule = {
        "kind": "volume", "files": "*.dcm", "of": "dicom", "patient": {"dicom": "PatientID"},
        "sequences": {"flair": "FLAIR", "t1": "T1"},
    }  # fmt: skip
    out = tmp_path / "site"
    import_folder(root, out, plan(modalities={"mri": rule}))
    paths = [p.relative_to(out / "mri").parts for p in (out / "mri").rglob("*.dcm")]
    assert len(paths) == 3
    assert {(len(p), p[0], p[2]) for p in paths} == {
        (4, pseudonym(load_key(out / "state"), PATIENT), "t1")
    }
    assert len({p[1] for p in paths}) == 1
    source = yaml.safe_load((out / "polyclinic.yaml").read_text())["cohorts"]["tiny"]
    assert source["modalities"]["mri"] == {"kind": "volume", "folder": "mri", "layout": "dicom"}


def test_records_of_a_patient_get_pseudonyms_of_their_own(folder: Path, tmp_path: Path) -> None:
    write_csv(
        folder / "labels.csv",
        ("PATNR", "VISIT", "DIAG"),
        [(IDS[0], f"KANARI-v{n}", "ill") for n in range(2)] + [(IDS[1], "KANARI-v0", "well")],
    )
    for n in range(2):
        made = film(PatientID=IDS[0], AccessionNumber=f"KANARI-v{n}", SOPInstanceUID=f"1.9.{n}")
        (folder / f"{n}.dcm").write_bytes(written(made))
    rule = {
        "kind": "image", "files": "*.dcm", "patient": {"dicom": "PatientID"},
        "record": {"dicom": "AccessionNumber"},
    }  # fmt: skip
    labels = {"table": "labels.csv", "id": "PATNR", "record": "VISIT", "columns": {"y": "DIAG"}}
    out = tmp_path / "site"
    result = import_folder(folder, out, plan(labels=labels, modalities={"film": rule}))
    manifest = [(r["patient_id"], r["record"]) for r in table(out / "manifest.csv")]
    # The same visit number of two patients names two records.
    assert len(set(manifest)) == 3 == len({record for _, record in manifest})
    films = {(r["patient_id"], r["record"]) for r in table(out / "film" / "files.csv")}
    assert films == {m for m in manifest if m[0] == pseudonym(load_key(out / "state"), IDS[0])}
    assert result.patients == 2
    assert not any(WORD in content for content in contents(out).values())


def test_no_error_names_a_file_or_value(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.csv").write_text('PATNR,DIAG\nKANARI,"open')
    with pytest.raises(DataError) as caught:
        import_folder(folder, tmp_path / "site", plan())
    assert "KANARI" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_people_fold_only_when_asked() -> None:
    apart, same = People(bytes(32)), People(bytes(32), fold=True)
    assert apart.named("0012") != apart.named("12")
    assert same.named("0012") == same.named("12") == same.named("12.0")
    assert (apart.twin_count, apart.named(""), apart.record("p", "")) == (1, "", "")


def test_an_import_without_patients_is_not_as_planned() -> None:
    assert not Imported().ok(plan())
    assert re.fullmatch(r"[a-z]+", plan().cohort)


def test_a_table_that_reaches_no_patient_of_the_labels_is_told(
    folder: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "site", plan()
    result = import_folder(folder, out, said)
    everybody = len(IDS)
    assert result.reached == {
        "labs": everybody, "film": everybody, "picture": everybody, "scan": everybody
    }  # fmt: skip
    # One patient is no longer in the labels, and the laboratory writes every id otherwise.
    write_csv(folder / "labels.csv", ("PATNR", "DIAG"), [(p, "ill") for p in IDS[1:]])
    text = (folder / "labs.csv").read_text()
    (folder / "labs.csv").write_text(text.replace("KANARI-", "LAB-"))
    result = import_folder(folder, out, said)
    others = everybody - 1
    assert result.reached == {"labs": 0, "film": others, "picture": others, "scan": others}
    without = plan(modalities={n: m for n, m in dumped(said).items() if n != "labs"})
    assert not result.ok(said)
    assert import_folder(folder, tmp_path / "other", without).ok(without)


def dumped(said: ImportPlan) -> dict[str, Any]:
    """The modalities of a plan as YAML would say them."""
    return {n: m.model_dump(exclude_defaults=True) for n, m in said.modalities.items()}


def test_several_files_of_one_sequence_are_all_set_aside(folder: Path, tmp_path: Path) -> None:
    # The pattern of t1 is found in both names, and nothing says which file is meant.
    first = folder / "scans" / IDS[0] / f"{IDS[0]}_T1.nii.gz"
    write_scan(first.with_name(f"{IDS[0]}_POST_T1.nii.gz"), IDS[0])
    out, said = tmp_path / "site", plan()
    result = import_folder(folder, out, said)
    scans, others = result.files["scan"], len(IDS) - 1
    assert (scans.seen, scans.new) == (others + 2, others)
    assert scans.refused == {"ambiguous_series": 2}
    both = {hashlib.sha256(p.read_bytes()).hexdigest()[:12] for p in first.parent.glob("*T1.nii*")}
    assert {e.reference for e in scans.entries} == both
    assert result.reached["scan"] == others
    assert not result.ok(said)
    with (out / "scan" / "files.csv").open(newline="") as stream:
        listed = {row["file"] for row in csv.DictReader(stream)}
    assert listed == {p.name for p in (out / "scan").glob("*.nii.gz")}
    assert len(listed) == others
    # It is told again, and mended by taking one of them away.
    assert import_folder(folder, out, said).files["scan"].refused == {"ambiguous_series": 2}
    first.unlink()
    scans = import_folder(folder, out, said).files["scan"]
    assert (scans.seen, scans.new, scans.refused) == (others + 1, 1, {})
