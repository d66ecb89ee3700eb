import csv
import fcntl
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from polyclinic.cli.import_slides import declaration
from polyclinic.data.cohort import open_cohort
from polyclinic.data.slide import read_slide
from polyclinic.data.tiles import Tiling
from polyclinic.errors import DataError, SiteError, StudyError
from polyclinic.importing.pseudonym import load_key, pseudonym
from polyclinic.importing.slides import SlideImport, SlideReport, import_slides
from polyclinic.models.patch_trunk import WIDTH, Extractor, extractor
from polyclinic.settings import SiteSettings
from polyclinic.study import Study, parse_study
from slides import glass, with_tissue, write_slide

FOLDER = "10x_112px_0px_overlap"
CORNERS = [(0, 0), (0, 112), (112, 0), (112, 112)]
TILING = Tiling(mpp=1.0, tile_px=112)


@pytest.fixture(scope="module")
def trunk() -> Extractor:
    return extractor("random:0")


def tissue(seed: int) -> np.ndarray:
    """Four tiles of tissue."""
    return with_tissue(glass(240, 240, seed), 0, 0, 232, 235, (205 - 3 * seed, 120, 175))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two slides of two patients."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, name in enumerate(("SMITH-1", "JONES-2")):
        write_slide(folder / f"{name}.svs", tissue(i), 1.0, levels=2, label=glass(40, 60))
    return folder


def wanted(scans: Path, **options: object) -> SlideImport:
    site = scans.parent / "site"
    options = {"tiling": TILING, **options}
    return SlideImport(folder=scans, site=site, storage=site / "state", **options)


def states(report: SlideReport) -> list[str]:
    return sorted(o.reason or o.state for o in report.outcomes)


def test_each_slide_becomes_a_file_of_the_trident_layout(scans, trunk) -> None:
    report = import_slides(wanted(scans), trunk)
    assert states(report) == ["made", "made"]
    base = scans.parent / "site" / "wsi" / FOLDER
    assert report.store.base == base
    for outcome in report.outcomes:
        path = base / "features_resnet34-layer3-random0" / f"{outcome.slide}.h5"
        slide = read_slide(path, "trident", WIDTH, trunk.name)
        assert slide.features.shape == (4, WIDTH) == (outcome.tiles, WIDTH)
        with h5py.File(base / "patches" / f"{outcome.slide}_patches.h5") as file:
            assert sorted(map(tuple, file["coords"][()])) == CORNERS
            assert file["coords"].attrs["patch_size_level0"] == 112
            assert file["coords"].attrs["target_magnification"] == 10
        assert (scans.parent / "site" / "wsi" / "pictures" / f"{outcome.slide}.png").is_file()


def test_a_file_says_where_its_features_come_from(scans, trunk) -> None:
    report = import_slides(wanted(scans), trunk)
    with h5py.File(report.store.file(report.outcomes[0].slide)) as file:
        said = dict(file.attrs)
    assert said["extractor"] == "resnet34-layer3-random0"
    assert said["weights_sha256"] == trunk.sha256
    assert (said["mpp"], said["tile_size_px"], said["tile_size_um"]) == (1.0, 112, 112.0)
    assert said["polyclinic_version"]


def test_features_are_those_of_the_tiles(scans, trunk) -> None:
    report = import_slides(wanted(scans), trunk)
    outcome = report.outcomes[0]
    with h5py.File(report.store.file(outcome.slide)) as file:
        features, coords = file["features"][()], file["coords"][()]
    image = tissue(1)  # JONES-2 comes first
    tiles = np.stack([image[y : y + 112, x : x + 112] for x, y in coords])
    np.testing.assert_allclose(features, trunk.features(tiles), rtol=1e-4, atol=1e-5)


def test_the_stamp_layout_counts_in_micrometres(scans, trunk) -> None:
    report = import_slides(wanted(scans, layout="stamp"), trunk)
    path = scans.parent / "site" / "wsi" / f"{report.outcomes[0].slide}.h5"
    assert read_slide(path, "stamp", WIDTH, trunk.name).origin.unit == "um"
    with h5py.File(path) as file:
        assert sorted(map(tuple, file["coords"][()])) == CORNERS


def test_no_name_of_a_file_a_person_or_the_label_is_anywhere(scans, trunk) -> None:
    """Names are in the file names, and in the description of the slides (SMITH-JANE, operator)."""
    import_slides(wanted(scans), trunk)
    site = scans.parent / "site"
    for path in site.rglob("*"):
        assert not {"smith", "jones"} & set(str(path.relative_to(site)).lower().split("-"))
        if path.is_file():
            raw = path.read_bytes().lower()
            assert not any(word in raw for word in (b"smith", b"jones", b"operator", b"label"))
            assert path.stat().st_mode & 0o077 == 0


def test_the_slide_table_names_patients_by_the_sites_key(scans, trunk) -> None:
    report = import_slides(wanted(scans), trunk)
    key = load_key(scans.parent / "site" / "state", create=False)
    with (report.store.base / "slides.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["patient_id"] for r in rows} == {pseudonym(key, n) for n in ("SMITH-1", "JONES-2")}
    assert {r["slide_id"] for r in rows} == {o.slide for o in report.outcomes}


def test_patients_come_from_a_table_and_names_stay_when_asked(scans, trunk) -> None:
    table = scans.parent / "patients.csv"
    table.write_text("patient_id,slide_id\np1,SMITH-1.svs\np1,JONES-2\n")
    report = import_slides(wanted(scans, patients=table, keep_names=True), trunk)
    assert (report.store.base / "slides.csv").read_text() == (
        "patient_id,slide_id\np1,JONES-2\np1,SMITH-1\n"
    )


def test_a_slide_of_nobody_is_set_aside(scans, trunk) -> None:
    table = scans.parent / "patients.csv"
    table.write_text("patient_id,slide_id\np1,SMITH-1\n")
    assert states(import_slides(wanted(scans, patients=table), trunk)) == ["made", "no_patient_id"]


def test_a_finished_slide_is_kept_and_the_rest_is_made(scans, trunk, monkeypatch) -> None:
    first = import_slides(wanted(scans), trunk)
    write_slide(scans / "third.svs", tissue(2), 1.0)
    calls = []
    embed = type(trunk).features
    monkeypatch.setattr(
        type(trunk), "features", lambda self, tiles: calls.append(len(tiles)) or embed(self, tiles)
    )
    second = import_slides(wanted(scans), trunk)
    assert states(second) == ["kept", "kept", "made"]
    assert sum(calls) == 4
    assert {o.slide for o in first.outcomes} < {o.slide for o in second.outcomes}


def damaged_bit(path: Path) -> None:
    """One bit of the numbers turned over."""
    with h5py.File(path) as file:
        at = file["features"].id.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    raw[at + 7] ^= 1
    path.write_bytes(raw)


BREAKS = {
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:3000]),
    "empty": lambda p: p.write_bytes(b""),
    "one bit": damaged_bit,
}


@pytest.mark.parametrize("harm", BREAKS.values(), ids=BREAKS.keys())
def test_a_broken_file_is_made_again(scans, trunk, harm) -> None:
    report = import_slides(wanted(scans), trunk)
    path = report.store.file(report.outcomes[0].slide)
    before = read_slide(path, "trident", WIDTH, "").features
    harm(path)
    assert states(import_slides(wanted(scans), trunk)) == ["kept", "made"]
    np.testing.assert_array_equal(read_slide(path, "trident", WIDTH, "").features, before)


def test_another_content_resolution_or_share_of_tissue_is_made_anew(scans, trunk) -> None:
    import_slides(wanted(scans), trunk)
    write_slide(scans / "SMITH-1.svs", tissue(5), 1.0)
    assert states(import_slides(wanted(scans), trunk)) == ["kept", "made"]
    stated = scans.parent / "mpp.csv"
    stated.write_text("wsi,mpp\nSMITH-1.svs,0.97\n")
    assert states(import_slides(wanted(scans, mpp_table=stated), trunk)) == ["kept", "made"]


def test_a_run_that_was_killed_leaves_what_was_finished(scans, trunk) -> None:
    def stop(outcome, slides):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_slides(wanted(scans), trunk, stop)
    assert states(import_slides(wanted(scans), trunk)) == ["kept", "made"]
    assert not list((scans.parent / "site").rglob("*.tmp"))


def test_a_slide_that_breaks_while_it_is_embedded_leaves_no_file(scans, trunk) -> None:
    raw = bytearray(write_slide(scans / "bad.svs", tissue(3), 1.0).read_bytes())
    raw[len(raw) // 3 : len(raw) // 3 + 3000] = bytes(3000)
    (scans / "bad.svs").write_bytes(raw)
    report = import_slides(wanted(scans), trunk)
    assert states(report) == ["made", "made", "unreadable"]
    assert len(list(report.store.features.iterdir())) == 2


def test_b10_a_bad_slide_is_listed_and_never_stops_the_others(scans, trunk) -> None:
    (scans / "empty.svs").touch()
    (scans / "text.ndpi").write_text("no slide")
    write_slide(scans / "unknown.svs", tissue(2), mpp=None)
    write_slide(scans / "blank.svs", glass(240, 240, 7), 1.0)
    write_slide(scans / "coarse.svs", tissue(4), 2.0)
    report = import_slides(wanted(scans), trunk)
    assert states(report) == [
        "made",
        "made",
        "no_mpp",
        "no_tissue",
        "too_coarse",
        "unreadable",
        "unsupported_slide",
    ]
    with (scans.parent / "site/state/quarantine/import-wsi.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(r["reason"] for r in rows) == states(report)[2:]
    assert all(len(r["reference"]) == 12 for r in rows)
    blank = next(o for o in report.outcomes if o.reason == "no_tissue")
    assert (scans.parent / "site/wsi/pictures" / f"{blank.slide}.png").is_file()


def test_a_stated_resolution_is_used(scans, trunk) -> None:
    write_slide(scans / "unknown.svs", tissue(2), mpp=None)
    table = scans.parent / "mpp.csv"
    table.write_text("wsi;mpp\nunknown.svs;1,0\n")
    assert states(import_slides(wanted(scans, mpp_table=table), trunk)) == ["made"] * 3


@pytest.mark.parametrize("cell", ["", "half", "0", "-1", "nan", "400"])
def test_a_table_with_an_impossible_resolution_is_refused(scans, trunk, cell) -> None:
    table = scans.parent / "mpp.csv"
    table.write_text(f"wsi,mpp\nSMITH-1.svs,{cell}\n")
    with pytest.raises(DataError, match="micrometres per pixel") as refusal:
        import_slides(wanted(scans, mpp_table=table), trunk)
    assert "SMITH" not in str(refusal.value)


def test_a_slide_under_two_patients_is_refused(scans, trunk) -> None:
    table = scans.parent / "patients.csv"
    table.write_text("patient_id,slide_id\np1,SMITH-1\np2,SMITH-1.svs\n")
    with pytest.raises(DataError, match="one patient"):
        import_slides(wanted(scans, patients=table), trunk)


def test_two_files_of_one_name_are_both_set_aside(scans, trunk) -> None:
    (scans / "again").mkdir()
    write_slide(scans / "again" / "SMITH-1.tif", tissue(3), 1.0)
    assert states(import_slides(wanted(scans), trunk)) == ["made", "repeated_name", "repeated_name"]


def test_a_second_import_into_the_same_site_is_refused(scans, trunk) -> None:
    import_slides(wanted(scans), trunk)
    with (scans.parent / "site/state/import.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SiteError, match="one import at a time"):
            import_slides(wanted(scans), trunk)


def test_the_disk_is_not_filled(scans, trunk, monkeypatch) -> None:
    monkeypatch.setattr("polyclinic.importing.slide_store.RESERVE", 1 << 60)
    with pytest.raises(SiteError, match="MiB free"):
        import_slides(wanted(scans), trunk)


@pytest.mark.parametrize("name", ["../out", "WSI", "a/b", ""])
def test_a_modality_is_a_name_and_no_path(scans, name) -> None:
    with pytest.raises(StudyError):
        wanted(scans, modality=name)


def test_a_folder_without_slides_is_told(tmp_path, trunk) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match="slides"):
        import_slides(wanted(tmp_path / "scans"), trunk)


def agreed(name: str) -> Study:
    """A study of slides by this extractor."""
    wsi = {"kind": "bag", "dim": WIDTH, "extractor": name}
    return parse_study(
        {
            "name": "tiny",
            "task": {"label": "outcome", "classes": ["no", "yes"]},
            "modalities": {"wsi": wsi | {"recipe": {"mpp": 1.0, "tile_px": 112}}},
        }
    )


def test_an_imported_cohort_opens_for_a_study_of_the_same_extractor(tmp_path, trunk) -> None:
    """The whole way: slides, import, declaration, cohort; a site that used other weights is told
    before it trains."""
    folder, site = tmp_path / "scans", tmp_path / "site"
    folder.mkdir()
    rows = ["patient_id,outcome"]
    for i in range(8):
        write_slide(folder / f"p{i}.svs", tissue(i), 1.0)
        rows.append(f"p{i},{('no', 'yes')[i % 2]}")
    report = import_slides(wanted(folder, keep_names=True), trunk)
    assert states(report) == ["made"] * 8
    (site / "manifest.csv").write_text("\n".join(rows) + "\n")
    declared = yaml.safe_load(declaration(report.store, "wsi", site))
    cohort = {"root": str(site), "modalities": declared}
    settings = SiteSettings(site="a", storage=str(site / "state"), cohorts={"tiny": cohort})
    reading = open_cohort(settings, agreed(trunk.name)).records.readings["wsi"]
    assert bool(reading.column.present.all())
    assert reading.notes == ()
    with pytest.raises(DataError, match=r"resnet34-layer3-1a2b3c4d.*resnet34-layer3-random0"):
        open_cohort(settings, agreed("resnet34-layer3-1a2b3c4d"))


@pytest.mark.data
@pytest.mark.slow
def test_b10_real_slides_are_tiled_and_embedded(shared_data, tmp_path, trunk) -> None:
    """One has no resolution of its own; the other has label and macro pictures."""
    scans = shared_data / "wsi_small"
    options = {"tiling": Tiling()}
    without = import_slides(wanted(copied(tmp_path, scans), **options), trunk)
    assert states(without) == ["made", "no_mpp"]
    table = tmp_path / "mpp.csv"
    table.write_text("wsi,mpp\ntcga-cr-7395-01a-01-ts1.svs,0.5\n")
    report = import_slides(wanted(tmp_path / "scans", mpp_table=table, **options), trunk)
    assert states(report) == ["kept", "made"]
    tiles = sorted(o.tiles for o in report.outcomes)
    assert 40 <= tiles[0] <= 70
    assert 180 <= tiles[1] <= 240
    for outcome in report.outcomes:
        features = read_slide(report.store.file(outcome.slide), "trident", WIDTH, "").features
        assert features.std(axis=0).max() > 0


def copied(tmp_path: Path, scans: Path) -> Path:
    """The slides in a folder of the test's own."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for path in scans.glob("*.svs"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
