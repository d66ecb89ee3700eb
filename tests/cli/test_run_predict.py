"""polyclinic run predict: class maps at a site, from what a run left there and at the server."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from polyclinic.algorithms import fedmepd
from polyclinic.checkpoint import Checkpoints
from polyclinic.cli import main
from polyclinic.evaluation.overlays import PNG
from polyclinic.flare.personal import PersonalStore
from polyclinic.ledger import Ledger
from polyclinic.settings import load_settings
from polyclinic.study import Study, parse_study
from polyclinic.worker.desk import Desk
from polyclinic.worker.frame import Message, joined

PATIENTS = 6
MODELS = ("personal", "global")
SHAPE = (20, 18, 3)
AFFINE = np.diag([-1.0, -1.0, 4.0, 1.0])  # stored from the left and the front, as DICOM is
CLIENT = {"path": "polyclinic.algorithms.fedmepd.Client", "args": {"final_epochs": 1}}
STUDY = {
    "name": "spots",
    "task": {
        "mask": {
            "classes": ["background", "core"],
            "values": [0, 4],
            "regions": {"tc": ["core"]},
        }
    },
    "modalities": {m: {"kind": "volume", "features": [m]} for m in ("flair", "t1")},
    "split": {"test": 0.34},
    "scans": {
        "recipe": {"size": [16, 16, 1], "spacing_mm": None, "box": False},
        "network": {"dims": 2, "width": 4, "levels": 3},
    },
}


def write_site(root: Path) -> Path:
    """A hospital of a few scans with a bright spot; the last patient has no T1."""
    (root / "scans").mkdir(parents=True)
    draw = np.random.default_rng(0)
    ids = [f"case{i}" for i in range(PATIENTS)]
    for n, name in enumerate(ids):
        mask = np.zeros(SHAPE, np.uint8)
        mask[6 + n % 3 : 12, 5:11, 1] = 4
        for sequence in ("flair", "t1"):
            if (name, sequence) != (ids[-1], "t1"):
                voxels = 100 + 5 * draw.normal(size=SHAPE) + 40 * (mask > 0)
                image = nib.Nifti1Image(voxels.astype(np.float32), AFFINE)
                nib.save(image, root / "scans" / f"{name}_{sequence}.nii.gz")
        nib.save(nib.Nifti1Image(mask, AFFINE), root / "scans" / f"{name}_seg.nii.gz")
    (root / "manifest.csv").write_text("\n".join(["patient_id", *ids]) + "\n")
    volume = {"kind": "volume", "folder": "scans"}
    cohort = {"modalities": {"flair": volume, "t1": volume}, "mask": {"folder": "scans"}}
    site = {"site": "north", "minimum_cell": 1, "cohorts": {"spots": cohort}}
    (root / "polyclinic.yaml").write_text(yaml.safe_dump(site))
    return root


def write_run(folder: Path, site: Path, study: Study) -> Path:
    """What a downloaded job holds of a run that ended after its first round."""
    client, server = fedmepd.Client(**CLIENT["args"]), fedmepd.Server()
    state = server.initial(study)
    state = type(state)(state.tensors, 1)
    settings = load_settings(site / "polyclinic.yaml")
    desk, head = Desk.open(settings, study, client), {"do": "finalise", "round": 1}
    kept = desk.answer(Message(head, joined(state=state.tensors))).part("personal")
    origin = {"study": study.fingerprint(), "client": CLIENT["path"]}
    PersonalStore(Path(settings.storage), "r1", origin).save(kept, 1)
    place = folder / "polyclinic"
    checkpoints = Checkpoints(place / "checkpoints", client.contract(study).only("state"))
    ledger = Ledger(place / "ledger.jsonl")
    start = {"kind": "start", "run": "r1", "round": 0, "study": study.fingerprint()}
    ledger.append(start | {"checkpoint": {}})
    ledger.append({"kind": "round", "round": 1, "checkpoint": checkpoints.save(state)})
    (place / "checkpoints" / "round_00001.safetensors").rename(
        place / "checkpoints" / "last.safetensors"
    )
    config = folder / "app_server" / "config"
    config.mkdir(parents=True)
    (config / "study.json").write_text(json.dumps(STUDY))
    executor = {"path": "polyclinic.flare.executor.SiteExecutor", "args": {"client": CLIENT}}
    executors = {"executors": [{"tasks": ["*"], "executor": executor}]}
    (config / "config_fed_client.json").write_text(json.dumps(executors))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("predict")
    site = write_site(root / "site")
    return write_run(root / "result", site, parse_study(STUDY)), site


def predict(places: tuple[Path, Path], out: Path, *more: str) -> int:
    run, site = places
    return main.run(["run", "predict", str(run), "--site", str(site), "-o", str(out), *more])


def test_every_patient_gets_a_map_on_the_grid_of_the_file_in_the_studys_codes(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    assert predict(places, out) == 0
    maps = sorted(out.glob("*.nii.gz"))
    assert [m.name for m in maps] == [f"case{i}.nii.gz" for i in range(PATIENTS)]
    for path in maps:
        image = nib.load(path)
        assert image.shape == SHAPE
        assert np.array_equal(image.affine, AFFINE)
        assert set(np.unique(np.asarray(image.dataobj))) <= {0, 4}
    assert out.stat().st_mode & 0o077 == 0


def test_the_table_scores_each_patient_in_the_split_that_the_run_had_it_in(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    assert predict(places, out) == 0
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["patient"] for r in rows] == [f"case{i}" for i in range(PATIENTS)]
    assert {r["split"] for r in rows} == {"train", "test"}
    assert all(0 <= float(r["dice_tc"]) <= 1 for r in rows)
    # The score is that of the map that was written.
    for row in rows:
        found, true = (
            np.asarray(nib.load(p).dataobj) > 0
            for p in (
                out / f"{row['patient']}.nii.gz",
                places[1] / "scans" / f"{row['patient']}_seg.nii.gz",
            )
        )
        expected = 2 * (found & true).sum() / (found.sum() + true.sum())
        assert float(row["dice_tc"]) == pytest.approx(expected, abs=1e-5)


def test_only_the_patients_of_the_test_when_they_are_asked_for(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    assert predict(places, tmp_path / "maps", "--split", "test") == 0
    assert len(list((tmp_path / "maps").glob("*.nii.gz"))) == 2  # 0.34 of 6


def splits(out: Path) -> dict[str, str]:
    """Split by patient, as the table has it."""
    with (out / "scores.csv").open() as file:
        return {r["patient"]: r["split"] for r in csv.DictReader(file)}


def test_a_patient_of_the_training_never_counts_as_one_of_the_test_once_the_cohort_has_changed(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    shutil.copytree(places[1], site)
    for what in ("flair", "t1", "seg"):
        shutil.copy(site / f"scans/case0_{what}.nii.gz", site / f"scans/case6_{what}.nii.gz")
    with (site / "manifest.csv").open("a") as file:
        file.write("case6\n")
    assert predict((places[0], site), tmp_path / "maps") == 0
    assert splits(tmp_path / "maps") == {f"case{i}": "unknown" for i in range(PATIENTS + 1)}
    assert predict((places[0], site), tmp_path / "test", "--split", "test") == 4
    assert "--split" in " ".join(capsys.readouterr().err.split())


def test_a_patient_whom_nobody_has_marked_yet_is_segmented_beside_the_others(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(places[1], site)
    (site / "scans" / "case0_seg.nii.gz").unlink()
    assert predict((places[0], site), tmp_path / "maps") == 0
    assert len(list((tmp_path / "maps").glob("*.nii.gz"))) == PATIENTS
    assert set(splits(tmp_path / "maps")) == {f"case{i}" for i in range(1, PATIENTS)}


def test_an_empty_folder_that_others_could_read_is_closed_to_them(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    out.mkdir(mode=0o755)
    assert predict(places, out, "--split", "test") == 0
    assert out.stat().st_mode & 0o077 == 0


def test_the_models_differ_and_need_what_they_are_made_of(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    assert predict(places, tmp_path / "global", "--model", "global") == 0
    assert predict(places, tmp_path / "personal") == 0
    differ = [
        not np.array_equal(*(nib.load(tmp_path / m / f"case{i}.nii.gz").dataobj for m in MODELS))
        for i in range(PATIENTS)
    ]
    assert any(differ)


def test_a_patient_without_the_sequences_asked_for_is_passed_over(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(places, tmp_path / "maps", "--sequences", "t1", "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert (told["segmented"], told["without_sequences"]) == (PATIENTS - 1, 1)
    assert not (tmp_path / "maps" / "case5.nii.gz").exists()


def test_a_sequence_that_the_site_does_not_hold_is_refused(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    assert predict(places, tmp_path / "maps", "--sequences", "t2") == 4
    assert not (tmp_path / "maps").exists()


def test_what_is_there_is_not_overwritten(places: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "case0.nii.gz").write_text("mine")
    assert predict(places, tmp_path) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["case0.nii.gz"]
    assert (tmp_path / "case0.nii.gz").read_text() == "mine"


def test_pictures_are_written_when_asked_for_and_a_page_shows_them(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "maps", tmp_path / "page.html"
    assert predict(places, out, "--overlays", "--split", "test") == 0
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2
    assert all(p.read_bytes().startswith(PNG) for p in pictures)
    argv = ["run", "report", str(places[0]), "-o", str(page), "--overlays", str(out)]
    assert main.run(argv) == 0
    assert "This page holds pictures of patients." in page.read_text()
    assert page.stat().st_mode & 0o077 == 0


def test_a_site_that_took_no_part_has_no_model_of_its_own(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_site(tmp_path / "other")
    assert predict((places[0], other), tmp_path / "maps") == 4
    assert "--model global" in " ".join(capsys.readouterr().err.split())
    assert predict((places[0], other), tmp_path / "maps", "--model", "global") == 0


def test_no_name_of_a_patient_is_printed(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(places, tmp_path / "maps", "--format", "json") == 0
    told = capsys.readouterr()
    assert not any(f"case{i}" in told.out + told.err for i in range(PATIENTS))


def test_an_altered_model_is_refused(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "result"
    shutil.copytree(places[0], run)
    model = run / "polyclinic" / "checkpoints" / "last.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert predict((run, places[1]), tmp_path / "maps") == 4
    assert not (tmp_path / "maps").exists()


def test_without_the_jobs_configuration_the_job_is_asked_for(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(places[0] / "polyclinic", run)
    assert predict((run, places[1]), tmp_path / "maps") == 4
    assert "--job" in capsys.readouterr().err
    job = tmp_path / "job"
    shutil.copytree(places[0] / "app_server", job / "app")
    assert predict((run, places[1]), tmp_path / "maps", "--job", str(job)) == 0
