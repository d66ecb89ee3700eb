"""What a ledger says of a segmentation: regions, sequences given, anchor steps."""

import pytest

from polyclinic.evaluation.regions import anchor_steps, region_rows, subset_rows

REGIONS = ["wt", "et"]


def told(split: str = "test", **by_name: float) -> dict[str, float]:
    """Metrics, ``__`` for a slash and ``_and_`` for a plus; Dice over regions beside them."""
    named = {k.replace("__", "/").replace("_and_", "+"): v for k, v in by_name.items()}
    return {f"{split}/{k}": v for k, v in {"dice": 0.5, **named}.items()}


def test_each_model_of_a_site_has_a_row_with_all_its_sequences() -> None:
    final = {
        "b": told(dice__global__wt__t1=0.4, dice__global__et__t1=0.2, hd95__global__wt__t1=7.0),
        "a": told(
            dice__personal__wt__flair_and_t1=0.8,
            dice__personal__et__flair_and_t1=0.6,
            dice__personal__wt__t1=0.1,
            dice__global__wt__flair_and_t1=0.7,
        ),
    }
    rows = region_rows(final, REGIONS)
    assert [(r.site, r.model) for r in rows] == [
        ("a", "personal"),
        ("a", "global"),
        ("b", "global"),
    ]
    assert rows[0].dice == {"wt": 0.8, "et": 0.6, "": pytest.approx(0.7)}
    assert rows[0].hd95 == {}
    assert rows[2].hd95 == {"wt": 7.0, "": 7.0}


def test_test_patients_count_before_validation_patients() -> None:
    final = {"a": told("validation", dice__global__wt__t1=0.1) | told(dice__global__wt__t1=0.9)}
    assert region_rows(final, REGIONS)[0].dice["wt"] == 0.9
    final = {"a": told("validation", dice__global__wt__t1=0.1)}
    assert region_rows(final, REGIONS)[0].dice["wt"] == 0.1


def test_a_subset_is_the_mean_over_regions_and_over_the_sites_that_hold_it() -> None:
    final = {
        "a": told(dice__personal__wt__t1=0.6, dice__personal__et__t1=0.4, dice__global__wt__t1=0.2),
        "b": told(dice__personal__wt__t1=0.9, dice__personal__wt__flair_and_t1=0.7),
        "c": told(dice__global__wt__t1=0.8),
    }
    one, two = subset_rows(final, REGIONS)
    assert (one.sequences, two.sequences) == (("t1",), ("flair", "t1"))
    # a: (0.6 + 0.4) / 2 = 0.5; b: 0.9
    assert one.means == {"personal": pytest.approx(0.7), "global": pytest.approx(0.5)}
    assert one.sites == {"a": pytest.approx(0.5), "b": 0.9, "c": 0.8}
    assert two.means == {"personal": 0.7}


def test_a_region_that_the_study_does_not_have_is_not_shown() -> None:
    final = {"a": told(dice__personal__liver__t1=0.6)}
    assert region_rows(final, REGIONS)[0].dice == {}
    assert subset_rows(final, REGIONS) == []


def test_a_step_counted_or_the_last_values_were_kept_for_a_reason() -> None:
    records = [
        {"kind": "anchor", "round": 0, "site": "ref", "status": "absorbed", "seconds": 2.0},
        {
            "kind": "round",
            "round": 1,
            "heard": ["a", "b"],
            "seconds": 9.0,
            "anchor": {"site": "ref", "status": "kept_last", "reason": "late", "seconds": 5.0},
        },
        {"kind": "round", "round": 2, "anchor": {"status": "kept_last", "reason": "below_quorum"}},
        {"kind": "round", "round": 3},
        {"kind": "census", "anchor": "ref"},
    ]
    first, second, third = anchor_steps(records)
    assert (first.round, first.kept, first.heard, first.seconds) == (0, False, None, 2.0)
    assert (second.kept, second.reason, second.heard, second.taken) == (True, "late", 2, 9.0)
    assert (third.site, third.reason, third.seconds) == ("", "below_quorum", None)
