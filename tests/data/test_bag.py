import numpy as np
import pytest
import torch

import polyclinic.data.bag as bag_module
from polyclinic.data.bag import absent, join, kept_instances
from polyclinic.errors import DataError, DataRejected
from polyclinic.study import Modality


def constant_bags(ids, sizes, width=2):
    """Bag i holds the number i everywhere."""
    return {
        p: np.full((n, width), float(i)) for i, (p, n) in enumerate(zip(ids, sizes, strict=True))
    }


def column_of(hospital):
    return hospital.open().records.readings["wsi"].column


def test_bags_are_padded_with_zeros_and_masked_to_the_longest(hospital) -> None:
    ids = hospital.patients(4)
    hospital.bags("wsi", constant_bags(ids, [1, 3, 2, 5]))
    inputs, fields = column_of(hospital).collate(torch.tensor([2, 1]))
    assert inputs.tolist() == [[[2, 2], [2, 2], [0, 0]], [[1, 1], [1, 1], [1, 1]]]
    assert fields.tolist() == [[True, True, False], [True, True, True]]


def test_a_patient_without_a_bag_has_zeros_and_no_field(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", dict.fromkeys(ids, (1, 2, 3)))
    hospital.bags("wsi", constant_bags(ids[:6], [2] * 6))
    column = column_of(hospital)
    assert column.present.tolist() == [True] * 6 + [False] * 2
    for rows in ([7], [7, 6], [7, 1]):
        inputs, fields = column.collate(torch.tensor(rows))
        assert not inputs[0].any()
        assert not fields[0].any()
        assert inputs.shape[:2] == fields.shape


def test_slides_of_a_patient_are_concatenated_in_the_order_of_their_names(hospital) -> None:
    ids = hospital.patients(4)
    slides = {f"s{i}": np.full((1, 2), float(i)) for i in range(5)}
    folder = hospital.bags("wsi", slides)
    rows = [(ids[0], "s4"), (ids[0], "s0"), *((p, f"s{i + 1}") for i, p in enumerate(ids[1:]))]
    (folder / "slides.csv").write_text(
        "\n".join(["patient_id,slide_id", *(",".join(r) for r in rows)])
    )
    inputs, _ = column_of(hospital).collate(torch.tensor([0]))
    assert inputs[0, :, 0].tolist() == [0.0, 4.0]


def test_a_broken_file_is_quarantined_and_the_patient_keeps_the_rest(hospital) -> None:
    ids = hospital.patients(8)
    hospital.vector("v", dict.fromkeys(ids, (1, 2, 3)))
    bags = constant_bags(ids, [2] * 8)
    bags[ids[0]] = np.full((2, 2), np.nan)
    folder = hospital.bags("wsi", bags)
    (folder / f"{ids[1]}.h5").write_bytes(b"not an H5 file")
    cohort = hospital.open()
    assert cohort.quarantine.counts == {"not_finite": 1, "unreadable": 1}
    assert cohort.quarantine.affected == 2
    assert column_of(hospital).present.tolist() == [False, False] + [True] * 6
    assert cohort.size("train") + cohort.size("test") == 8
    listed = (hospital.root / "state" / "quarantine" / "tiny.csv").read_text()
    assert "not_finite" in listed
    assert ids[0] not in listed


def test_one_broken_slide_of_two_leaves_the_other(hospital) -> None:
    ids = hospital.patients(4)
    folder = hospital.bags("wsi", constant_bags(ids, [2, 2, 2, 2]))
    rows = [(p, p) for p in ids] + [(ids[0], "lost")]
    (folder / "slides.csv").write_text(
        "\n".join(["patient_id,slide_id", *(",".join(r) for r in rows)])
    )
    cohort = hospital.open()
    assert cohort.quarantine.counts == {"missing_file": 1}
    assert column_of(hospital).present.all()


def test_another_extractor_than_the_study_is_refused_naming_both(hospital) -> None:
    hospital.bags("wsi", constant_bags(hospital.patients(4), [2] * 4), extractor="uni")
    hospital.study_modalities["wsi"]["extractor"] = "conch"
    with pytest.raises(DataError, match=r"'conch'.*'uni'"):
        hospital.open()


def test_bags_beyond_the_cache_are_read_on_demand_and_equal(hospital, monkeypatch) -> None:
    ids = hospital.patients(6)
    hospital.bags("wsi", constant_bags(ids, [5, 4, 3, 2, 6, 1]))
    hospital.study_modalities["wsi"]["max_instances"] = 3
    whole = column_of(hospital)
    monkeypatch.setattr(bag_module, "CACHE_BYTES", 40)
    lazy = column_of(hospital)
    # Three instances of two float32 take 24 bytes: the first bag fits, the second does not.
    assert [b.cached is not None for b in lazy.bags][:2] == [True, False]
    rows = torch.arange(6)
    for a, b in zip(whole.collate(rows), lazy.collate(rows), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_file_damaged_after_opening_is_rejected_when_it_is_read(hospital, monkeypatch) -> None:
    ids = hospital.patients(4)
    folder = hospital.bags("wsi", constant_bags(ids, [2] * 4))
    monkeypatch.setattr(bag_module, "CACHE_BYTES", 0)
    column = column_of(hospital)
    (folder / f"{ids[0]}.h5").write_bytes(b"")
    with pytest.raises(DataRejected):
        column.collate(torch.tensor([0]))


def test_kept_instances_depend_on_seed_and_patient_only() -> None:
    kept = kept_instances(100, 10, 0, "p")
    assert kept is not None
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == 10
    again, other = kept_instances(100, 10, 0, "p"), kept_instances(100, 10, 1, "p")
    assert torch.equal(kept, again)
    assert not torch.equal(kept, other)
    assert not torch.equal(kept, kept_instances(100, 10, 0, "q"))


@pytest.mark.parametrize(("count", "most"), [(5, 0), (5, 5), (4, 5)])
def test_nothing_is_drawn_when_all_instances_fit(count: int, most: int) -> None:
    assert kept_instances(count, most, 0, "p") is None


def test_tiles_of_different_sizes_are_noted(hospital) -> None:
    import h5py

    ids = hospital.patients(4)
    folder = hospital.bags("wsi", constant_bags(ids, [2] * 4), layout="stamp")
    for p, size in zip(ids, (256.0, 256.0, 128.0, 256.0), strict=True):
        with h5py.File(folder / f"{p}.h5", "a") as file:
            file.attrs["tile_size_um"] = size
    notes = hospital.open().records.readings["wsi"].notes
    assert notes == ("tiles of different sizes in micrometres: 128, 256",)


def test_join_and_absent() -> None:
    modality = Modality(kind="bag", dim=3)
    whole = join([absent(1, modality), absent(2, modality)])
    assert whole.present.tolist() == [False] * 3
    assert whole.collate(torch.tensor([0, 2]))[0].shape == (2, 1, 3)


def test_b15_the_same_slide_under_two_patients_is_noticed(hospital) -> None:
    ids = hospital.patients(4)
    bags = constant_bags(ids, [2, 3, 2, 3])
    bags[ids[3]] = bags[ids[1]]
    hospital.bags("wsi", bags)
    notes = hospital.open().records.readings["wsi"].notes
    assert notes == ("1 slide(s) have exactly the features of another",)
