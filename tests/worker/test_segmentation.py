"""What is written of a patient's scan at the site: names, maps, scores."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from polyclinic.task import Mask
from polyclinic.worker.segmentation import Score, file_name, write_map, write_scores

MASK = Mask(
    classes=("background", "edema", "core"),
    values=(0, 2, 4),
    regions={"wt": ("edema", "core"), "tc": ("core",)},
)


@pytest.mark.parametrize("name", ["P-0041", "TCGA-02-0001", "a b", "r+1", "Müller"])
def test_a_name_gives_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / file_name(name)).touch()
    assert len(list(tmp_path.iterdir())) == 1
    assert not file_name(name).startswith(".")


@pytest.mark.parametrize("name", ["../p1", "/etc/p1", "..", ".hidden", "-rf", "a/b", "a\\b", "a\n"])
def test_a_name_is_never_a_path_nor_hidden(name: str, tmp_path: Path) -> None:
    written = file_name(name)
    assert (tmp_path / f"{written}.nii.gz").resolve().parent == tmp_path.resolve()
    assert not written.startswith((".", "-"))
    assert "\n" not in written


def test_different_names_give_different_files() -> None:
    names = ["a/b", "a%2Fb", "a_b", ".a", "%2Ea", "a"]
    assert len({file_name(n) for n in names}) == len(names)


def test_a_name_longer_than_a_file_may_have_gives_one_all_the_same(tmp_path: Path) -> None:
    names = ["漢" * 120, "漢" * 119 + "字", "." * 250]
    written = {file_name(n) for n in names}
    assert len(written) == len(names)
    for name in written:
        (tmp_path / f".{name}.nii.gz.12345678.tmp").touch()


def test_a_map_has_the_studys_codes_on_the_grid_of_the_file(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 5.0
    case = SimpleNamespace(to_source=lambda classes: (classes[::-1], affine))
    classes = np.array([[[0, 1, 2]]], np.uint8)
    write_map(tmp_path / "p.nii.gz", case, classes, MASK)
    found = nib.load(tmp_path / "p.nii.gz")
    assert np.asarray(found.dataobj).tolist() == [[[0, 2, 4]]]
    assert found.get_data_dtype() == np.uint8
    assert np.array_equal(found.affine, affine)


def test_codes_that_a_byte_cannot_hold_are_written_wider(tmp_path: Path) -> None:
    mask = MASK.model_copy(update={"values": (0, 300, 65535)})
    case = SimpleNamespace(to_source=lambda classes: (classes, np.eye(4)))
    write_map(tmp_path / "p.nii.gz", case, np.array([[[0, 1, 2]]], np.uint8), mask)
    assert np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj).tolist() == [[[0, 300, 65535]]]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_b14_no_cell_of_the_table_starts_a_formula(name: str, tmp_path: Path) -> None:
    write_scores(tmp_path, [Score(name, "test", (0.5, 1.0), (2.0, 3.0))], MASK)
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith(f"'{name},")


def test_a_score_that_is_not_defined_is_an_empty_cell(tmp_path: Path) -> None:
    scores = [Score("p,1", "test", (0.5, 1.0), (2.0, float("nan")))]
    write_scores(tmp_path, scores, MASK)
    assert (tmp_path / "scores.csv").read_text().splitlines() == [
        "patient,split,dice_wt,dice_tc,hd95_wt,hd95_tc",
        '"p,1",test,0.5,1,2,',
    ]
