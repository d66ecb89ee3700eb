"""The kind ``image``, from a folder of films to a batch."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from polyclinic.data import image as module
from polyclinic.data.check import check_cohort
from polyclinic.data.column import Reading, Request, kind_reader
from polyclinic.data.describe import describe_cohort
from polyclinic.data.film import Film
from polyclinic.data.generated.film import Card, write_dicom, write_png
from polyclinic.data.image import ImageColumn, absent, join, read
from polyclinic.errors import DataError, DataRejected, SiteError, StudyError
from polyclinic.settings import Source
from polyclinic.study import Modality

IDS = ("p0", "p1", "p2", "p3")
RECIPE = {"size": [16, 16], "fit": "stretch"}


def pixels(seed: int, shape: tuple[int, int] = (32, 40)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def films(root: Path, **named: np.ndarray) -> None:
    folder = root / "films"
    folder.mkdir(exist_ok=True)
    for name, values in named.items():
        write_png(folder / f"{name}.png", values)


def a_request(root: Path, recipe: dict[str, object] | None = None, **more: object) -> Request:
    source = Source(kind="image", folder="films", **more.pop("source", {}))
    modality = Modality(kind="image", recipe=RECIPE | (recipe or {}))
    options = {"cache": root / "cache"} | more
    return Request("cxr", modality, source, root, "patient_id", IDS, **options)


def column(reading: Reading) -> ImageColumn:
    assert isinstance(reading.column, ImageColumn)
    return reading.column


def rows(*which: int) -> Tensor:
    return torch.tensor(which)


def test_a_folder_of_films_becomes_a_batch(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p2=pixels(2))
    found = column(read(a_request(tmp_path, {"normalise": "range"})))

    x, fields = found.collate(rows(2, 1, 0))

    assert found.present.tolist() == [True, False, True, False]
    assert (x.shape, x.dtype) == ((3, 1, 16, 16), torch.float32)
    assert fields.tolist() == [[True], [False], [True]]
    assert not x[1].any()
    # 32 x 40 into 16 x 16: rows are means of two, columns of two and a half
    eight_bit = torch.from_numpy(np.rint(pixels(2) * 255) / 255).float()
    expected = torch.nn.functional.adaptive_avg_pool2d(eight_bit[None], 16)
    torch.testing.assert_close(x[0], expected, rtol=0, atol=0.5 / 255 + 1e-6)


def test_b03_a_negative_and_its_positive_give_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for i, style in enumerate(("plain", "inverted")):
        path = tmp_path / "films" / f"p{i}.dcm"
        write_dicom(path, pixels(0), Card(f"p{i}"), i, style=style)
    x, _ = column(read(a_request(tmp_path, {"normalise": "range"}))).collate(rows(0, 1))
    # The window of the second is one level wider than its pixels: at most one of 255 levels.
    torch.testing.assert_close(x[0], x[1], rtol=0, atol=1 / 255 + 1e-6)


def test_a_film_is_decoded_once_and_epochs_read_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(tmp_path, p0=pixels(0), p1=pixels(1))
    first, _ = column(read(a_request(tmp_path))).collate(rows(0, 1))
    monkeypatch.setattr(module, "read_film", None)
    again = column(read(a_request(tmp_path)))

    assert torch.equal(again.collate(rows(0, 1))[0], first)
    # What decides the pixels is part of the key; how they are read is not.
    read(a_request(tmp_path, {"augment": {"flip": True}, "normalise": "range"}))
    for other in ({"size": [16, 24]}, {"fit": "pad"}):
        with pytest.raises(TypeError):
            read(a_request(tmp_path, other))
    with pytest.raises(TypeError):
        read(a_request(tmp_path, source={"burned_in": "accept"}))


def test_the_cache_may_vanish_between_epochs(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0))
    found = column(read(a_request(tmp_path)))
    before, _ = found.collate(rows(0))
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(found.collate(rows(0))[0], before)


def test_without_a_cache_the_pictures_are_the_same(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0))
    cached, _ = column(read(a_request(tmp_path))).collate(rows(0))
    plain, _ = column(read(a_request(tmp_path, cache=None))).collate(rows(0))
    assert torch.equal(cached, plain)


def test_a_bad_film_costs_itself_and_the_next_one_is_taken(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p1=np.full((20, 20), 0.5))
    folder = tmp_path / "films"
    (folder / "p2").mkdir()
    (folder / "p2" / "a.dcm").write_bytes(b"no film")
    write_png(folder / "p2" / "b.png", pixels(2))
    write_png(folder / "p2" / "c.png", pixels(3))
    for _ in range(2):  # the second time from the cache, which remembers refusals
        reading = read(a_request(tmp_path))
        assert column(reading).present.tolist() == [True, False, True, False]
        told = [(e.reason, e.modality, e.patient) for e in reading.entries]
        assert told == [("constant_image", "cxr", "p1"), ("not_an_image", "cxr", "p2")]
        assert all(len(e.reference) == 12 for e in reading.entries)
        several = "1 patient(s) have several films; the first by name is used"
        assert reading.notes == (several,)
    b, _ = column(reading).collate(rows(2))
    films(tmp_path, p3=pixels(2))
    same, _ = column(read(a_request(tmp_path))).collate(rows(3))
    assert torch.equal(b, same)


def test_one_hot_pixel_on_a_blank_film_is_still_blank(tmp_path: Path) -> None:
    blank = np.zeros((1600, 1600))
    blank[5, 5] = 1.0
    films(tmp_path, p0=blank, p1=pixels(1))
    reading = read(a_request(tmp_path))
    assert [e.reason for e in reading.entries] == ["constant_image"]


def test_padding_does_not_make_a_blank_film_a_picture(tmp_path: Path) -> None:
    blank = np.full((1600, 800), 1.0)
    blank[5, 5] = 0.0
    films(tmp_path, p0=blank)
    reading = read(a_request(tmp_path, {"fit": "pad"}))
    assert [e.reason for e in reading.entries] == ["constant_image"]


def test_b15_the_same_film_under_two_patients_is_told_as_a_count(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p1=pixels(0), p2=pixels(2), p3=pixels(0))
    (note,) = read(a_request(tmp_path)).notes
    assert note == "2 film(s) have exactly the pixels of another"


def test_progress_counts_every_patient_from_one_thread(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p3=pixels(3))
    ticks, threads = [], set()

    def tick(patients: int) -> None:
        ticks.append(patients)
        threads.add(threading.get_ident())

    read(a_request(tmp_path, tick=tick))
    assert (sum(ticks), threads) == (4, {threading.get_ident()})


def test_films_that_are_ready_at_other_times_stay_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(tmp_path, **{p: pixels(i) for i, p in enumerate(IDS)})
    later = threading.Event()

    def slow(path: Path, *, burned_in: str) -> Film:
        i = int(path.stem[1:])
        if i == 0:
            later.wait(5)
        later.set()
        return Film(np.tile(pixels(i), 1).astype(np.float32), None, "png")

    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "read_film", slow)
    got, _ = column(read(a_request(tmp_path, cache=None))).collate(rows(0, 1, 2, 3))
    for i in range(4):
        alone, _ = column(read(a_request(tmp_path, cache=None))).collate(rows(i))
        assert torch.equal(alone[0], got[i])


AUGMENT = {"augment": {"rotate_degrees": 5, "shift": 0.05, "flip": True, "intensity": 0.1}}


def test_training_draws_from_its_generator_and_evaluation_draws_nothing(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p1=pixels(1))
    found = column(read(a_request(tmp_path, AUGMENT)))

    def once(seed: int) -> Tensor:
        return found.collate(rows(0, 1), torch.Generator().manual_seed(seed))[0]

    plain = found.collate(rows(0, 1))[0]
    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert torch.equal(plain, found.collate(rows(0, 1))[0])
    assert not torch.equal(plain, once(1))
    state = torch.random.get_rng_state()
    once(3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_patient_without_a_film_does_not_change_how_others_are_augmented(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0), p2=pixels(2))
    without = column(read(a_request(tmp_path, AUGMENT)))
    films(tmp_path, p1=pixels(1))
    with_it = column(read(a_request(tmp_path, AUGMENT)))
    a, b = (
        c.collate(rows(0, 1, 2), torch.Generator().manual_seed(1))[0] for c in (without, with_it)
    )
    assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert not a[1].any()


def test_absent_and_joined_columns_fit_each_other(tmp_path: Path) -> None:
    films(tmp_path, p1=pixels(1))
    found = column(read(a_request(tmp_path)))
    modality = a_request(tmp_path).modality
    whole = join([absent(2, modality), found])

    assert whole.present.tolist() == [False, False, False, True, False, False]
    torch.testing.assert_close(whole.collate(rows(3))[0], found.collate(rows(1))[0])
    assert whole.collate(rows(0))[0].shape == (1, 1, 16, 16)
    assert kind_reader("image") is module


@pytest.mark.parametrize("wrong", [{"dim": 3}, {"features": ["a", "b"]}])
def test_a_film_has_one_channel(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(StudyError, match="one channel"):
        absent(1, Modality(kind="image", **wrong))


def test_a_full_disk_stops_the_reading_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(tmp_path, p0=pixels(0))
    monkeypatch.setattr("polyclinic.data.cache.RESERVE", 1 << 60)
    with pytest.raises(SiteError, match="free space"):
        read(a_request(tmp_path))


def test_b09_nothing_of_a_header_is_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    path = tmp_path / "films" / "p0.dcm"
    write_dicom(path, pixels(0), Card("p0", age="061Y", sex="F"), 4)
    burned = tmp_path / "films" / "p1.dcm"
    write_dicom(burned, pixels(1), Card("p1"), 5, style="burned")
    reading = read(a_request(tmp_path))
    assert [e.reason for e in reading.entries] == ["burned_in"]
    kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    words = (b"INVENTED", b"061Y", b"p0", b"p1", b"2.25.", str(tmp_path).encode())
    assert len(kept) == 3  # the key, a picture, a refusal
    assert not any(w in p.read_bytes() for p in kept if p.name != "key" for w in words)
    assert "p0" not in repr(reading.column)


def test_a_film_that_breaks_later_is_refused_by_its_reason_only(tmp_path: Path) -> None:
    films(tmp_path, p0=pixels(0))
    found = column(read(a_request(tmp_path)))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "films" / "p0.png").write_bytes(b"broken")
    with pytest.raises(DataRejected) as caught:
        found.collate(rows(0))
    assert "p0" not in str(caught.value)


def a_cohort(hospital, count: int, without: int = 0) -> None:
    ids = hospital.patients(count)
    (hospital.root / "films").mkdir()
    for i, p in enumerate(ids[without:]):
        write_png(hospital.root / "films" / f"{p}.png", pixels(i, (30 + i, 40)))
    hospital.modalities["cxr"] = {"kind": "image", "folder": "films"}
    hospital.study_modalities["cxr"] = {"kind": "image", "recipe": RECIPE}


def test_check_and_describe_tell_the_sizes_of_films(hospital) -> None:
    a_cohort(hospital, 21)
    expected = {
        "films": 21,
        "height": "35 to 45 px (quartiles)",  # of 30, 31, ..., 50
        "width": "40 to 40 px (quartiles)",
    }
    described = describe_cohort(hospital.open())
    report = check_cohort(hospital.settings(), hospital.study())

    assert described["modalities"]["cxr"]["summary"] == expected
    assert report.ok
    (told,) = [f.message for f in report.findings if f.check == "content"]
    assert told == ", ".join(f"{k} {v}" for k, v in expected.items())


def test_check_and_describe_tell_nothing_of_few_films(hospital) -> None:
    a_cohort(hospital, 21, without=11)
    hospital.options["max_loss_fraction"] = 1.0
    hospital.vector("lab", {f"p{i:03d}": (1, 2, i) for i in range(21)})
    described = describe_cohort(hospital.open())
    assert described["modalities"]["cxr"]["summary"] == {"films": "<11"}


def test_a_cohort_of_films_trains_batches_of_both_splits(hospital) -> None:
    a_cohort(hospital, 20)
    cohort = hospital.open()
    (batch,) = cohort.batches("test", 32)
    assert batch.inputs["cxr"].shape == (cohort.size("test"), 1, 16, 16)
    assert batch.fields["cxr"].all()
    hospital.modalities["cxr"] = {"kind": "image", "folder": "gone"}
    with pytest.raises(DataError):
        hospital.open()


def test_jpeg_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    smooth = np.linspace(0, 1, 32)[:, None] * np.ones((1, 40))
    Image.fromarray((smooth * 255).astype(np.uint8)).save(tmp_path / "films" / "p0.jpg")
    films(tmp_path, p1=smooth)
    x, _ = column(read(a_request(tmp_path))).collate(rows(0, 1))
    torch.testing.assert_close(x[0], x[1], rtol=0, atol=0.05)
