"""What repeats say."""

import pytest

from polyclinic.evaluation.summary import figures, subset_means, summarise


def record(method: str, site: str, repeat: int, value: float) -> dict[str, object]:
    head = {"method": method, "site": site, "repeat": repeat, "value": value}
    return head | {"test": "pooled", "metric": "auroc"}


def test_the_mean_over_sites_is_taken_within_a_repeat() -> None:
    records = [
        record("local", "h1", 0, 0.6),
        record("local", "h2", 0, 0.8),
        record("local", "h1", 1, 0.5),  # h2 is not defined in this repeat
    ]
    entry = summarise(records)["pooled"]["auroc"]["local"]

    assert entry["mean"] == pytest.approx((0.7 + 0.5) / 2)
    assert entry["sd"] == pytest.approx(((0.1**2 + 0.1**2) / 1) ** 0.5)
    assert entry["sites"]["h1"]["mean"] == pytest.approx(0.55)
    assert entry["sites"]["h2"]["n"] == 1


def test_methods_are_compared_on_the_repeats_in_which_all_of_them_ended() -> None:
    records = [record("local", "h1", r, v) for r, v in enumerate((0.9, 0.2))]
    records.append(record("fedmm", "h1", 0, 0.9))  # the second was a hard one, and failed
    found = summarise(records)["pooled"]["auroc"]
    assert found["local"]["mean"] == found["fedmm"]["mean"] == pytest.approx(0.9)
    assert summarise([record("a", "h", 0, 0.5), record("b", "h", 1, 0.5)]) == {}


def test_a_metric_is_averaged_where_every_method_that_has_it_is_defined() -> None:
    records = [record("a", "h1", r, v) for r, v in enumerate((10.0, 20.0, 30.0))]
    records += [record("b", "h1", 0, 9.0), record("b", "h2", 1, 5.0), record("b", "h1", 2, 40.0)]
    found = summarise(records)["pooled"]["auroc"]
    assert (found["a"]["mean"], found["b"]["mean"]) == (20.0, 24.5)  # repeats 0 and 2 of h1
    assert found["a"]["sites"]["h1"]["mean"] == 20.0
    assert found["b"]["sites"]["h2"]["mean"] == 5.0


def test_a_site_aside_is_told_by_itself_and_is_in_no_mean() -> None:
    records = [
        record(method, site, 0, value)
        for method, values in {"local": (0.5, 0.9), "fedmm": (0.7, 0.2)}.items()
        for site, value in zip(("h1", "anchor"), values, strict=True)
    ]
    only = record("local", "anchor", 0, 0.3) | {"metric": "auroc/rare"}
    found = summarise([*records, only], {"anchor"})["pooled"]

    assert found["auroc"]["fedmm"]["mean"] == pytest.approx(0.7)
    assert found["auroc"]["fedmm"]["minus"]["local"]["mean"] == pytest.approx(0.2)
    assert found["auroc"]["fedmm"]["sites"]["anchor"]["mean"] == pytest.approx(0.2)
    assert "auroc/rare" not in found


def test_the_gap_closed_is_the_share_from_local_to_centralised() -> None:
    values = {"local": 0.7, "centralised": 0.9, "fedmm": 0.85}
    found = summarise([record(m, "h", 0, v) for m, v in values.items()])["pooled"]["auroc"]
    assert found["fedmm"]["gap_closed"] == pytest.approx(0.75)
    assert found["local"]["gap_closed"] == 0.0
    assert found["centralised"]["gap_closed"] == 1.0
    assert found["fedmm"]["minus"]["local"]["mean"] == pytest.approx(0.15)


def test_without_both_ends_there_is_no_gap() -> None:
    found = summarise([record("local", "h", 0, 0.7), record("fedmm", "h", 0, 0.8)])
    assert found["pooled"]["auroc"]["fedmm"]["gap_closed"] is None


def test_a_tuned_method_is_measured_between_tuned_ends() -> None:
    values = {"local": 0.5, "centralised": 1.0, "local_plus": 0.8, "centralised_plus": 0.9}
    found = summarise([record(m, "h", 0, v) for m, v in (values | {"fedmm_plus": 0.85}).items()])
    assert found["pooled"]["auroc"]["fedmm_plus"]["gap_closed"] == pytest.approx(0.5)


def test_one_value_has_no_spread() -> None:
    assert figures([0.5]) == {"mean": 0.5, "sd": None, "interval": [0.5, 0.5], "n": 1}


def test_a_subset_is_scored_over_regions_and_over_the_sites_that_hold_it() -> None:
    found = summarise(
        [
            record("fedmepd", site, 0, value) | {"metric": f"dice/personal/{region}/{subset}"}
            for site, region, subset, value in (
                ("h1", "wt", "t1", 0.6),
                ("h2", "wt", "t1", 0.8),
                ("h1", "et", "t1", 0.3),
                ("h1", "wt", "flair+t1", 0.9),
                ("h1", "wt", "t2", 0.1),
            )
        ]
        + [record("fedmepd", "h1", 0, 0.9) | {"metric": m} for m in ("dice", "dice/global", "hd95")]
    )
    # t1: region wt ((0.6 + 0.8) / 2 = 0.7) and region et (0.3)
    means = subset_means(found["pooled"])
    assert list(means) == ["t1", "t2", "flair+t1"]
    assert means["t1"] == {("fedmepd", "personal"): pytest.approx(0.5)}


def test_the_gap_closed_is_told_of_any_score() -> None:
    values = {"local": 0.4, "centralised": 0.8, "fedmepd": 0.7}
    records = [record(m, "h", 0, v) | {"metric": "dice"} for m, v in values.items()]
    found = summarise(records)["pooled"]["dice"]
    assert found["fedmepd"]["gap_closed"] == pytest.approx(0.75)


def test_methods_that_segment_have_ends_of_their_own() -> None:
    values = {"scan_local": 0.4, "scan_centralised": 0.8, "fedmepd": 0.7}
    found = summarise([record(m, "h", 0, v) for m, v in values.items()])["pooled"]["auroc"]
    assert found["fedmepd"]["gap_closed"] == pytest.approx(0.75)
    assert found["scan_centralised"]["gap_closed"] == 1.0
