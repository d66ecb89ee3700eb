"""Local training of a segmentation: step sizes, kept moments, windows over whole stacks, scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hospital import a_study
from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.moments import ADAM, moments, restore_moments
from polyclinic.algorithms.scan_training import (
    ScanTraining,
    network_of,
    require_tellable,
    scan_model,
    scored,
    segmented,
    shown,
    step_size,
    train_scans,
    window_segmenter,
)
from polyclinic.algorithms.site import told_scores
from polyclinic.algorithms.wire import INITIAL
from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.evaluation.metrics import LONGEST_NAME
from polyclinic.exchange import PERSONAL, Contract, Tensors
from polyclinic.flare.convert import Reply
from polyclinic.flare.figures import leaving_metrics
from polyclinic.flare.guard import Refused, UpdateGuard
from polyclinic.models.scan import ScanModel, ScanOutput
from polyclinic.models.tensors import tensors_of
from polyclinic.objectives.segmentation import segmentation_loss
from polyclinic.training import initialise
from scan_site import SIZE, ScanSite, scan_study

STUDY = scan_study(levels=2)
SEQUENCES = tuple(STUDY.modalities)


def test_the_defaults_are_the_papers() -> None:
    settings = ScanTraining()
    assert (settings.epochs, settings.batch_size) == (1, 1)
    assert (settings.lr, settings.weight_decay, settings.decay_power) == (2e-4, 1e-5, 0.9)
    assert settings.keep_optimiser


def test_the_step_size_falls_from_lr_by_a_power_of_what_is_left() -> None:
    settings = ScanTraining(lr=0.1, decay_rounds=10)
    assert step_size(settings, 1) == 0.1
    assert step_size(settings, 6) == pytest.approx(0.1 * 0.5**0.9)
    assert step_size(settings, 10) == pytest.approx(0.1 * 0.1**0.9)


def test_the_step_size_never_falls_below_a_hundredth_of_lr_nor_is_above_it() -> None:
    settings = ScanTraining(lr=0.1, decay_rounds=10)
    assert step_size(settings, 11) == step_size(settings, 500) == pytest.approx(0.001)
    assert step_size(settings, 0) == 0.1  # of the anchor site before round 1


def test_the_step_size_has_both_limits() -> None:
    assert step_size(ScanTraining(lr=0.1), 77) == 0.1
    constant = ScanTraining(lr=0.1, decay_rounds=10, decay_power=0.0)
    assert step_size(constant, 9) == 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"decay_power": -0.1},
        {"decay_power": 11.0},
        {"validate_every": -1},
        {"batch_size": 0},
        {"epochs": -1},
        {"lr": 0.0},
        {"head_lr": 1e-3},
        {"class_balance": True},
        {"label_smoothing": 0.1},
        {"select_epoch": True},
        {"balance": "miles"},
    ],
)
def test_a_setting_out_of_range_or_without_a_meaning_here_is_named(
    settings: dict[str, object],
) -> None:
    with pytest.raises(StudyError, match=next(iter(settings))):
        ScanTraining(**settings)  # type: ignore[arg-type]


def test_a_study_without_a_mask_is_refused() -> None:
    with pytest.raises(StudyError, match="mask"):
        network_of(a_study())


@pytest.mark.parametrize(
    ("levels", "size", "dims"),
    [(3, (16, 16, 8), 2), (3, (16, 16, 1), 3), (4, (8, 16, 1), 2), (5, (16, 16, 1), 2)],
)
def test_crops_that_the_network_cannot_segment_are_refused(
    levels: int, size: tuple[int, int, int], dims: int
) -> None:
    study = scan_study(levels=levels)
    assert study.scans is not None
    scans = study.scans.model_copy(
        update={
            "recipe": {"size": list(size), "box": False},
            "network": {"dims": dims, "width": 4, "levels": levels},
        }
    )
    with pytest.raises(StudyError, match="crops of edges"):
        network_of(study.model_copy(update={"scans": scans}))


def a_batch(*, held: tuple[str, ...], lacks: tuple[tuple[str, int], ...] = ()) -> Batch:
    """Two training patients in order."""
    site = ScanSite("h1", STUDY, held, patients=2, lacks=lacks)
    return next(site.batches("train", 2, torch.Generator()))


def test_what_a_model_is_shown_is_what_the_patients_have() -> None:
    batch = a_batch(held=("t1",), lacks=(("t1", 0),))
    inputs, present = shown(batch, SEQUENCES)
    assert inputs.keys() == present.keys() == {"t1"}
    assert torch.equal(present["t1"], batch.present["t1"])


def test_an_image_of_zeros_has_the_features_of_an_absent_one() -> None:
    model = a_model().eval()
    zeros = torch.zeros(1, 1, *SIZE)
    for features in model.enc["flair"](zeros[..., 0]):  # but for rounding
        assert features.abs().max() < 1e-3


def a_model(held: tuple[str, ...] = SEQUENCES) -> ScanModel:
    """Drawn from a seed."""
    model = scan_model(STUDY, held, calibrated=False, auxiliary=True)
    model.to_empty(device="cpu")
    initialise(model, [*(f"enc.{m}" for m in held), "dec", "aux"], 0, INITIAL)
    return model


def trained(
    memory: Tensors, t: int, start: Tensors | None = None, **settings: object
) -> tuple[Tensors, Tensors]:
    """Weights and memory after round ``t`` of a site of four patients."""
    site, model = ScanSite("h1", STUDY, SEQUENCES, patients=4), a_model()
    if start is not None:
        model.load_state_dict({n: torch.tensor(a) for n, a in start.items()})

    def loss(batch: Batch) -> Tensor:
        inputs, present = shown(batch, SEQUENCES)
        return segmentation_loss(model(inputs, present), batch.labels, present)

    told = ScanTraining(batch_size=4, lr=1e-3, **settings)  # type: ignore[arg-type]
    fitted, kept = train_scans(model, site, told, loss, memory, t)
    assert np.isfinite(fitted.loss)
    assert not model.training
    return tensors_of(model), kept


def test_a_round_of_training_can_be_repeated_bit_for_bit() -> None:
    first, second, other = trained({}, 1)[0], trained({}, 1)[0], trained({}, 2)[0]
    assert all(first[n].tobytes() == second[n].tobytes() for n in first)
    assert any(first[n].tobytes() != other[n].tobytes() for n in first)


def test_moments_of_all_weights_stay_at_the_site_and_count_the_steps() -> None:
    weights, kept = trained({}, 1, epochs=3)
    assert {n.removeprefix(ADAM).rsplit(".", 1)[0] for n in kept} == set(weights)
    assert all(n.startswith(PERSONAL) for n in kept)
    assert {float(a) for n, a in kept.items() if n.endswith(".step")} == {3.0}
    _, later = trained(kept, 2, weights)
    assert {float(a) for n, a in later.items() if n.endswith(".step")} == {4.0}


def test_kept_moments_matter_and_without_them_nothing_is_kept() -> None:
    weights, kept = trained({}, 1)
    resumed, anew = trained(kept, 2, weights)[0], trained({}, 2, weights)[0]
    forgot, nothing = trained(kept, 2, weights, keep_optimiser=False)
    assert not nothing
    assert all(forgot[n].tobytes() == anew[n].tobytes() for n in anew)
    assert any(resumed[n].tobytes() != anew[n].tobytes() for n in anew)


def test_an_optimiser_that_was_put_away_goes_on_as_if_it_had_not_been() -> None:
    went_on, put_away = (torch.nn.Linear(3, 2) for _ in range(2))
    put_away.load_state_dict(went_on.state_dict())
    first, second = (torch.optim.Adam(m.parameters(), fused=True) for m in (went_on, put_away))

    def step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, scale: float) -> None:
        optimiser.zero_grad()
        model(scale * torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    for model, optimiser in ((went_on, first), (put_away, second)):
        step(model, optimiser, 1.0)
    again = torch.optim.Adam(put_away.parameters(), fused=True)
    restore_moments(
        again,
        dict(put_away.named_parameters()),
        moments(second, dict(put_away.named_parameters())),
    )
    step(went_on, first, 2.0)
    step(put_away, again, 2.0)
    assert torch.equal(went_on.weight, put_away.weight)


def test_a_weight_without_a_whole_set_of_moments_starts_anew() -> None:
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    restore_moments(optimiser, dict(model.named_parameters()), {f"{ADAM}weight.step": np.ones(())})
    assert not optimiser.state


def bright(windows: Tensor) -> Tensor:
    """Class 1 where the second sequence is above a half, class 2 where the first is."""
    first, second = windows[:, 0] > 0.5, windows[:, 1] > 0.5
    two = first.float()
    one = second.float() * (1 - two)
    return torch.stack([1 - one - two, one, two], dim=1)


def test_a_stack_larger_than_a_window_is_segmented_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    flair, t1 = torch.rand((2, 1, 1, 37, 21, 3), generator=generator)
    found = segmented({"flair": flair, "t1": t1}, flair.shape, SEQUENCES, STUDY, bright)
    expected = torch.where(flair > 0.5, 2, (t1 > 0.5).long())[0, 0]
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), expected)


def test_a_stack_smaller_than_a_window_is_segmented_at_its_own_size() -> None:
    flair = torch.rand((1, 1, 9, 5, 1), generator=torch.Generator().manual_seed(0))
    found = segmented({"flair": flair}, flair.shape, SEQUENCES, STUDY, bright)
    assert torch.equal(found.bool(), flair[0, 0] > 0.5)


def test_a_sequence_that_is_not_shown_is_0_in_its_slot() -> None:
    t1 = torch.ones((1, 1, 16, 16, 1))
    seen = []

    def look(windows: Tensor) -> Tensor:
        seen.append(windows)
        return bright(windows)

    assert segmented({"t1": t1}, t1.shape, SEQUENCES, STUDY, look).eq(1).all()
    assert not seen[0][:, [0, 2]].any()
    assert seen[0][:, 1].all()


def test_windows_are_read_as_patients_who_have_the_sequences_that_are_there() -> None:
    model, told = a_model(("flair", "t1")).train(), []

    def forward(inputs: dict[str, Tensor], present: dict[str, Tensor]) -> ScanOutput:
        told.append((inputs, present))
        out: ScanOutput = model(inputs, present)
        return out

    segment = window_segmenter(model, SEQUENCES, {"t1": True, "flair": False}, forward)
    windows = torch.randn((2, 3, 16, 16, 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = segment(windows)
    assert found.shape == (2, 3, 16, 16, 1)
    assert not model.training
    inputs, present = told[0]
    assert {m: flags.tolist() for m, flags in present.items()} == {
        "flair": [False, False],
        "t1": [True, True],
        "t1ce": [False, False],
    }
    assert torch.equal(inputs["t1"][:, 0], windows[:, 1])


def a_site(**changes: object) -> ScanSite:
    """Two test patients of two sequences; the first lacks t1."""
    site = ScanSite("h1", STUDY, ("flair", "t1"), patients=4, lacks=(("t1", 0),))
    return replace(site, **changes)  # type: ignore[arg-type]


def right(batch: Batch, chosen: tuple[str, ...]) -> Tensor:
    """The truth, if t1 is shown; else background."""
    return batch.labels[0] if "t1" in chosen else torch.zeros_like(batch.labels[0])


def test_every_patient_is_scored_in_every_region_by_every_model() -> None:
    models = {"personal": right, "global": lambda batch, chosen: batch.labels[0].clamp(max=1)}
    found = scored(a_site(), "test", models, every_subset=False)
    whole = "flair+t1"
    assert found.keys() == {
        f"{score}/{model}/{region}/{whole}"
        for score in ("dice", "hd95")
        for model in models
        for region in ("wt", "tc")
    } | {"there/wt", "there/tc"}
    assert found["there/tc"].tolist() == [1, 1]
    assert found[f"dice/personal/wt/{whole}"].tolist() == [1, 1]
    assert found[f"hd95/personal/tc/{whole}"].tolist() == [0, 0]
    # Core told as oedema: the whole tumour is right, the core is missed and has no distance.
    assert found[f"dice/global/wt/{whole}"].tolist() == [1, 1]
    assert found[f"dice/global/tc/{whole}"].tolist() == [0, 0]
    assert np.isnan(found[f"hd95/global/tc/{whole}"]).all()
    assert {a.dtype.name for a in found.values()} == {"float32"}


def test_with_subsets_a_patient_without_any_of_one_has_no_score() -> None:
    found = scored(a_site(), "test", {"personal": right}, every_subset=True)
    told = [n for n in found if not n.startswith("there/")]
    assert {n.rsplit("/", 1)[1] for n in told} == {"flair", "t1", "flair+t1"}
    assert found["dice/personal/wt/flair"].tolist() == [0, 0]
    np.testing.assert_array_equal(found["dice/personal/wt/t1"], [np.nan, 1])
    assert not any(n.startswith("hd95") and not n.endswith("flair+t1") for n in found)


def test_a_split_without_patients_has_no_scores() -> None:
    assert scored(a_site(patients=0), "test", {"personal": right}, every_subset=True) == {}


@pytest.mark.parametrize(
    ("count", "letters"), [(7, 1), (16, 1), (16, 32)], ids=["127", "65535", "long names"]
)
def test_more_scores_than_a_reply_holds_are_refused_before_anything_is_trained(
    count: int, letters: int
) -> None:
    study = scan_study(sequences=tuple(chr(97 + i) * letters for i in range(count)))
    with pytest.raises(StudyError, match="at most"):
        fedmepd.Client(subsets=letters == 1).contract(study)


def test_what_is_not_refused_fits_a_reply_at_the_site_and_at_the_server() -> None:
    study = scan_study(sequences=("flair", "t1", "t1ce", "t2"))
    require_tellable(ScanTraining(subsets=True), study)
    site = ScanSite("a", study, tuple(study.modalities), patients=2)
    models = {"personal": right, "global": right}
    found = told_scores(scored(site, "test", models, every_subset=True), site, "test")
    every = {f"{s}/{k}": v for s in ("train", "validation", "test") for k, v in found.items()}
    told = leaving_metrics(every, tuple(study.modalities), 1, (), ("wt", "tc"))
    guard = UpdateGuard(Contract({}))
    assert guard.check_metrics(Reply("METRICS", {}, {}, told)) == every


def test_a_name_as_long_as_is_allowed_passes_the_server() -> None:
    guard = UpdateGuard(Contract({}))
    assert guard.check_metrics(Reply("METRICS", {}, {}, {"a" * LONGEST_NAME: 1.0}))
    with pytest.raises(Refused):
        guard.check_metrics(Reply("METRICS", {}, {}, {"a" * (LONGEST_NAME + 1): 1.0}))


def test_a_job_does_not_choose_feature_maps_that_no_hospital_bears() -> None:
    study = scan_study(width=8)
    assert study.scans is not None
    recipe = {**study.scans.recipe, "size": [256, 256, 1], "crops": 64}
    scans = study.scans.model_copy(update={"recipe": recipe})
    with pytest.raises(StudyError, match="feature maps"):
        network_of(study.model_copy(update={"scans": scans}))
