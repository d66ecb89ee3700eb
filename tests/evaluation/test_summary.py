"""What repeats say."""

import pytest

from polyclinic.evaluation.summary import figures, summarise


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
