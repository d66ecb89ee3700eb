"""The kind ``volume``: from files to batches, with what is absent or damaged left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from polyclinic.data import sequence_reader, volume
from polyclinic.data.check import check_cohort
from polyclinic.data.cohort import open_cohort
from polyclinic.data.column import Reading
from polyclinic.data.describe import describe_cohort
from polyclinic.data.nifti import read_nifti
from polyclinic.data.quarantine import file_hash
from polyclinic.data.volume import VolumeColumn
from polyclinic.data.volume_frame import framed
from polyclinic.errors import DataError, StudyError
from polyclinic.settings import SiteSettings
from polyclinic.study import Modality, parse_study
from volumes import IDS, SEQUENCES, affine, head, modality, request, write

SHAPE = (10, 12, 8)


def hospital(root: Path, without: set[tuple[str, str]] = frozenset()) -> Path:
    """Three patients with three sequences each, but for those left out."""
    for i, p in enumerate(IDS):
        for j, s in enumerate(SEQUENCES):
            if (p, s) not in without:
                write(root / "mri" / p / f"{s}.nii.gz", head(10 * i + j))
    return root


def read(root: Path, **options: object) -> Reading:
    return volume.read(request(root, **options))


def column(reading: Reading) -> VolumeColumn:
    assert isinstance(reading.column, VolumeColumn)
    return reading.column


def test_a_stack_is_the_files_brain_normalised_and_cut_to_it(tmp_path: Path) -> None:
    found = column(read(hospital(tmp_path)))
    inputs, fields = found.collate(torch.arange(3))
    assert inputs.shape == (3, 3, 8, 10, 8)
    assert inputs.dtype == torch.float32
    assert fields.all()
    # The head is the box without its rim of 0: 8 x 10 x 6 voxels, padded to the recipe's size.
    inner = head(0)[1:-1, 1:-1, 1:-1].astype(np.float64)
    expected = (inner - inner.mean()) / inner.std()
    np.testing.assert_allclose(inputs[0, 0, :, :, 1:-1], expected, atol=2e-3)
    assert (inputs[:, :, :, :, [0, -1]] == 0).all()


def test_an_absent_sequence_is_zero_and_masked(tmp_path: Path) -> None:
    without = {("p1", "t2"), ("p2", "t1"), ("p2", "t2"), ("p3", "t1")}
    reading = read(hospital(tmp_path, without | {("p3", "t2"), ("p3", "flair")}))
    found = column(reading)
    inputs, fields = found.collate(torch.tensor([2, 0, 1]))
    assert fields.tolist() == [[False] * 3, [True, False, True], [False, False, True]]
    assert found.present.tolist() == [True, True, False]
    assert (inputs[~fields] == 0).all()
    assert all((inputs[i, s] != 0).any() for i, s in torch.nonzero(fields).tolist())
    assert reading.entries == ()


def test_the_sequences_keep_the_order_of_the_panel_whoever_lacks_one(tmp_path: Path) -> None:
    whole = column(read(hospital(tmp_path / "a"))).collate(torch.tensor([0]))[0]
    less = column(read(hospital(tmp_path / "b", {("p1", "t1")}))).collate(torch.tensor([0]))[0]
    assert torch.equal(whole[0, 1:], less[0, 1:])
    assert not less[0, 0].any()


def test_a_damaged_sequence_costs_only_itself(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    damaged = root / "mri" / "p2" / "t2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        reading = read(root, cache=cache)
        (entry,) = reading.entries
        assert (entry.reason, entry.modality, entry.patient) == ("unreadable", "mri", "p2")
        assert entry.reference == file_hash(damaged)
        assert column(reading).fields.tolist() == [[True] * 3, [True, False, True], [True] * 3]


def test_a_flipped_sequence_gives_the_stack_of_its_twin(tmp_path: Path) -> None:
    hospital(tmp_path / "a")
    hospital(tmp_path / "b")
    turned = nib.Nifti1Image(head(1), affine()).as_reoriented(
        nib.orientations.axcodes2ornt(("L", "S", "A"))
    )
    nib.save(turned, tmp_path / "b" / "mri" / "p1" / "t2.nii.gz")
    one, other = (column(read(tmp_path / n)).collate(torch.arange(3))[0] for n in "ab")
    assert torch.equal(one, other)


def test_sequences_of_different_grids_meet_on_that_of_the_first(tmp_path: Path) -> None:
    """A line x + 2y + 3z in millimetres stays that line, whatever grid it was sampled on."""

    def line(shape: tuple[int, ...], placed: np.ndarray) -> np.ndarray:
        ijk = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
        return ((ijk @ placed[:3, :3].T + placed[:3, 3]) @ [1.0, 2.0, 3.0] + 500).astype("float32")

    coarse, fine = affine(2.0, (-20, -20, -20)), affine(1.0, (-25, -25, -25))
    write(tmp_path / "mri" / "p1" / "t1.nii.gz", line((20, 20, 20), coarse), coarse)
    write(tmp_path / "mri" / "p1" / "t2.nii.gz", line((50, 50, 50), fine), fine)
    asked = modality(["t1", "t2"], size=[16, 16, 16], spacing_mm=[2, 2, 2], crop="centre")
    inputs, _ = column(read(tmp_path, asked=asked)).collate(torch.tensor([0]))
    inner = inputs[0, :, 2:-2, 2:-2, 2:-2]
    for other in inner:
        # z-scores of one line over nearly the same box: the same slopes, in the ratio 1 : 2 : 3.
        i, j, k = (float(other.diff(dim=d).mean()) for d in range(3))
        assert j / i == pytest.approx(2, rel=0.02)
        assert k / i == pytest.approx(3, rel=0.02)
        assert float(other.diff(dim=0).std()) < 0.01 * abs(i) + 2e-3
    assert not torch.equal(inner[0], inner[1])


def test_a_sequence_of_another_place_is_refused_by_itself(tmp_path: Path) -> None:
    hospital(tmp_path)
    far = write(tmp_path / "mri" / "p1" / "t2.nii.gz", head(1), affine(2.0, (500, 0, 0)))
    reading = read(tmp_path)
    (entry,) = reading.entries
    assert (entry.reason, entry.reference) == ("different_grids", file_hash(far))
    assert column(reading).fields[0].tolist() == [True, False, True]


def test_a_volume_that_would_grow_beyond_bounds_is_refused_before_it_does(tmp_path: Path) -> None:
    write(tmp_path / "mri" / "p1" / "t1.nii.gz", head(0, (60, 60, 60)), affine(40.0))
    asked = modality(spacing_mm=[0.5, 0.5, 0.5])
    (entry,) = read(tmp_path, asked=asked).entries
    assert entry.reason == "too_large"


def test_the_cache_gives_the_same_stacks_without_reading_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hospital(tmp_path, {("p2", "t1")})
    rows = torch.arange(3)
    plain = column(read(root)).collate(rows)
    column(read(root, cache=tmp_path / "cache"))
    monkeypatch.setattr(sequence_reader, "read_nifti", None)  # whoever calls it fails
    cached = column(read(root, cache=tmp_path / "cache")).collate(rows)
    assert torch.equal(plain[0], cached[0])
    assert torch.equal(plain[1], cached[1])


def test_a_cache_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    found = column(read(hospital(tmp_path), cache=tmp_path / "cache"))
    before = found.collate(torch.arange(3))[0]
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(found.collate(torch.arange(3))[0], before)


def test_nothing_of_a_name_is_in_the_cache(tmp_path: Path) -> None:
    write(tmp_path / "mri" / "smith" / "t1.nii.gz", head(0))
    read(tmp_path, ids=("smith",), cache=tmp_path / "cache")
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(files) >= 3
    for path in files:
        assert "smith" not in path.name
        assert b"smith" not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0


def test_another_sequence_under_the_same_file_is_another_stack(tmp_path: Path) -> None:
    write(tmp_path / "mri" / "p1.nii.gz", head(0))
    for name in ("t1", "t2"):
        found = column(read(tmp_path, asked=modality([name]), cache=tmp_path / "cache"))
        assert found.fields[0].tolist() == [True]
    row = "patient_id,file,sequence\np1,p1.nii.gz,{}\n"
    for name in ("t1", "t2"):
        (tmp_path / "mri" / "files.csv").write_text(row.format(name))
        fields = column(read(tmp_path, cache=tmp_path / "cache")).fields[0]
        assert fields.tolist() == [name == "t1", name == "t2", False]


def test_random_crops_are_drawn_in_training_and_lie_in_the_volume(tmp_path: Path) -> None:
    hospital(tmp_path)
    found = column(read(tmp_path, asked=modality(size=[8, 8, 8], crop="random")))
    middle = found.collate(torch.arange(3))[0]
    assert torch.equal(middle, found.collate(torch.arange(3))[0])
    generator = torch.Generator().manual_seed(0)
    drawn = [found.collate(torch.tensor([0]), generator)[0] for _ in range(8)]
    assert len({d.numpy().tobytes() for d in drawn}) > 1
    again = torch.Generator().manual_seed(0)
    assert torch.equal(drawn[0], found.collate(torch.tensor([0]), again)[0])
    # The box is 8 x 10 x 6 voxels: in its second axis there are three places for a crop.
    inner = head(0)[1:-1, 1:-1, 1:-1].astype(np.float64)
    z = (inner - inner.mean()) / inner.std()
    places = [z[:, y : y + 8] for y in range(3)]
    for d in drawn:
        assert min(np.abs(d[0, 0, :, :, 1:-1].numpy() - p).max() for p in places) < 3e-3


def test_augmentation_flips_and_changes_brightness_only_in_training(tmp_path: Path) -> None:
    hospital(tmp_path, {("p1", "t2")})
    asked = modality(augment={"flip": True, "intensity": 0.1})
    found = column(read(tmp_path, asked=asked))
    plain = column(read(tmp_path)).collate(torch.tensor([0]))[0]
    assert torch.equal(found.collate(torch.tensor([0]))[0], plain)
    changed = found.collate(torch.tensor([0]), torch.Generator().manual_seed(1))[0]
    assert not torch.equal(changed, plain)
    assert (changed[0, 1] == 0).all()  # absent stays absent
    # Undone flips leave a straight line between old and new brightness, within the limits.
    fits = []
    for axes in ([], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        x, y = plain[0, 0].flip(axes).flatten().numpy(), changed[0, 0].flatten().numpy()
        slope, shift = np.polyfit(x, y, 1)
        fits.append((np.abs(y - slope * x - shift).max(), slope, shift))
    worst, slope, shift = min(fits)
    assert worst < 1e-3
    assert abs(slope - 1) <= 0.1
    assert abs(shift) <= 0.1 + 1e-6


def test_the_draws_of_one_patient_do_not_depend_on_who_else_has_a_volume(tmp_path: Path) -> None:
    asked = modality(augment={"flip": True, "intensity": 0.3})
    every = {("p1", s) for s in SEQUENCES}
    for i, without in enumerate((set(), every)):
        hospital(tmp_path / str(i), without)
    one, other = (
        column(read(tmp_path / str(i), asked=asked)).collate(
            torch.arange(3), torch.Generator().manual_seed(5)
        )[0]
        for i in range(2)
    )
    assert torch.equal(one[1:], other[1:])


def test_absent_and_joined_columns_have_the_shapes_of_read_ones(tmp_path: Path) -> None:
    found = column(read(hospital(tmp_path)))
    nobody = volume.absent(2, modality())
    inputs, fields = nobody.collate(torch.arange(2))
    assert inputs.shape == (2, 3, 8, 10, 8)
    assert not fields.any()
    both = volume.join([nobody, found.prepared(torch.arange(1))])
    assert both.present.tolist() == [False, False, True, True, True]
    assert torch.equal(both.collate(torch.tensor([3]))[0], found.collate(torch.tensor([1]))[0])


def test_float16_costs_less_than_a_thousandth_of_the_noise(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", head(0))
    stack, _ = framed({"t1": read_nifti(path)}, volume.recipe_of("mri", modality()))
    inner = head(0)[1:-1, 1:-1, 1:-1].astype(np.float64)
    z = (inner - inner.mean()) / inner.std()
    error = np.abs(stack[0][:, :, 1:-1].astype(np.float64) - z)
    assert stack.dtype == np.float16
    assert (error <= np.abs(z) * 2**-11 + 1e-6).all()


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ({"size": [8, 8, 257]}, "size.2"),
        ({"size": [7, 8, 8]}, "size.0"),
        ({"spacing_mm": [0.01, 1, 1]}, "spacing_mm.0"),
        ({"spacing_mm": [float("nan"), 1, 1]}, "spacing_mm.0"),
        ({"orientation": "LPS"}, "orientation"),
        ({"crop": "everything"}, "crop"),
        ({"augment": {"rotate": 5}}, "augment.rotate"),
        ({"folder": "/etc"}, "folder"),
    ],
)
def test_a_recipe_beyond_its_limits_is_refused(tmp_path: Path, recipe, what: str) -> None:
    (tmp_path / "mri").mkdir()
    with pytest.raises(StudyError, match=f"recipe setting '{what}'"):
        read(tmp_path, asked=modality(**recipe))


def test_more_sequences_than_memory_is_planned_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="at most 16 sequences"):
        read(tmp_path, asked=modality([f"s{i}" for i in range(17)]))


def test_notes_tell_what_a_person_should_know(tmp_path: Path) -> None:
    root = hospital(tmp_path)
    write(root / "mri" / "p2" / "t1.nii.gz", head(0))  # p1's
    write(root / "mri" / "p3" / "lesion.nii.gz", head(1))
    image = nib.Nifti1Image(head(77), affine())
    image.set_qform(affine(2.0, (40, 0, 0)), code=1)
    nib.save(image, root / "mri" / "p3" / "t1.nii.gz")
    notes = " | ".join(read(root, asked=modality(size=[8, 8, 8])).notes)
    assert "1 file(s) tell two places" in notes
    assert "1 file(s) have exactly the voxels of another" in notes
    assert "1 file(s) belong to no sequence" in notes
    assert "3 patient(s) have more than the recipe's size" in notes
    assert read(hospital(tmp_path / "fine")).notes == ()


def site(root: Path, **source: object) -> SiteSettings:
    declared = {"kind": "volume", "folder": "mri", **source}
    return SiteSettings.model_validate(
        {
            "site": "hosp-a",
            "storage": str(root / "state"),
            "cache": str(root / "cache"),
            "minimum_cell": 3,
            "max_loss_fraction": 0.5,
            "cohorts": {"tiny": {"root": str(root), "modalities": {"mri": declared}}},
        }
    )


def a_study():
    return parse_study(
        {
            "name": "tiny",
            "task": {"label": "outcome", "classes": ["no", "yes"]},
            "modalities": {"mri": modality().model_dump()},
            "split": {"test": 0.25},
        }
    )


def test_check_and_describe_tell_sequences_and_spacing(tmp_path: Path) -> None:
    ids = [f"q{i}" for i in range(8)]
    for i, p in enumerate(ids):
        for j, s in enumerate(SEQUENCES if i < 4 else SEQUENCES[:2]):
            write(tmp_path / "mri" / p / f"{s}.nii.gz", head(10 * i + j))
    (tmp_path / "mri" / "q0" / "flair.nii.gz").write_bytes(b"")
    lines = ["patient_id,outcome", *(f"{p},{'no' if i % 2 else 'yes'}" for i, p in enumerate(ids))]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    settings, study = site(tmp_path), a_study()
    report = check_cohort(settings, study)
    assert report.ok
    assert "empty_file" in json.dumps(report.facts)
    cohort = open_cohort(settings, study)
    told = json.dumps(describe_cohort(cohort))
    assert '"t1": 8' in told
    assert '"flair": 3' in told
    assert 'spacing to the right": "2 mm"' in told
    assert cohort.size("train") == 6
    batch = next(cohort.batches("train", 4, torch.Generator().manual_seed(0)))
    assert batch.inputs["mri"].shape == (4, 3, 8, 10, 8)
    assert batch.fields["mri"].shape == (4, 3)


def test_no_small_group_is_told_nor_can_be_subtracted(tmp_path: Path) -> None:
    hospital(tmp_path, {("p1", "t2"), ("p2", "flair"), ("p3", "flair")})
    found = column(read(tmp_path))
    assert {k: found.summary(2)[k] for k in ("patients", *SEQUENCES)} == {
        "patients": 3,
        "t1": 3,
        "t2": "hidden",  # one patient lacks it
        "flair": "<2",
    }
    assert "spacing to the head" not in found.summary(4)


def test_a_site_that_reads_another_kind_is_refused(tmp_path: Path) -> None:
    hospital(tmp_path)
    asked = request(tmp_path)
    other = replace(asked, modality=Modality(kind="image"))
    with pytest.raises(DataError, match="kind 'image'"):
        volume.read(other)
