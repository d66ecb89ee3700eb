"""The tables that ``polyclinic compare`` prints."""

import itertools

import pytest

from polyclinic.cli import output
from polyclinic.cli.comparison_tables import print_summary
from polyclinic.evaluation.summary import summarise

Record = dict[str, object]


def record(method: str, metric: str, value: float, site: str = "c1", test: str = "own") -> Record:
    head = {"method": method, "site": site, "repeat": 0, "test": test}
    return head | {"metric": metric, "value": value}


def printed(records: list[Record], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of every line, without borders."""
    print_summary(summarise(records))
    told = capsys.readouterr().out
    for border in "│┃┏┓┗┛┡┩└┘━─┳┴╇":
        told = told.replace(border, " ")
    return [line.split() for line in told.splitlines() if line.split()]


def test_classes_are_compared_by_auroc_and_nothing_of_regions_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed([record("local", "auroc", 0.7), record("fedmm", "auroc", 0.8)], capsys)
    assert lines == [
        ["AUROC", "on", "each", "site's", "own", "test", "patients"],
        ["method", "AUROC", "sd", "95", "%", "interval"],
        ["local", "0.700", "-", "-"],
        ["fedmm", "0.800", "-", "-"],
        ["by", "site"],
        ["method", "c1"],
        ["local", "0.700"],
        ["fedmm", "0.800"],
    ]


def test_a_segmentation_is_compared_by_dice_with_the_distance_and_the_worst_site(
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {"local": (0.5, 0.7), "fedmepd": (0.6, 0.9), "centralised": (0.8, 0.9)}
    records = [
        record(method, "dice", value, site)
        for method, pair in values.items()
        for site, value in zip(("c1", "c2"), pair, strict=True)
    ]
    more = [record("fedmepd", "hd95", 6.5), record("fedmepd", "dice/global", 0.4)]
    lines = printed([*records, *more], capsys)
    # (0.75 - 0.6) / (0.85 - 0.6)
    assert ["fedmepd", "0.750", "-", "-", "60%", "6.500", "0.400"] in lines
    assert ["local", "0.600", "-", "-", "0%", "-", "-"] in lines
    assert ["method", "c1", "c2", "worst", "site"] in lines
    assert ["fedmepd", "0.600", "0.900", "0.600"] in lines
    assert ["by", "sequences;"] not in [line[:2] for line in lines]


def test_each_subset_has_a_column_and_each_method_a_row_for_each_of_its_models(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [record("fedavg", "dice", 0.5), record("fedmepd", "dice", 0.5)]
    records += [
        record("fedmepd", "dice/personal/wt/flair+t2", 0.8),
        record("fedmepd", "dice/personal/et/flair+t2", 0.6),
        record("fedmepd", "dice/global/wt/flair+t2", 0.5),
        record("fedavg", "dice/global/wt/t2", 0.3),
    ]
    lines = printed(records, capsys)
    assert ["fedavg", "global", "0.300", "-"] in lines
    # (0.8 + 0.6) / 2
    assert ["fedmepd", "personal", "-", "0.700"] in lines
    assert ["fedmepd", "global", "-", "0.500"] in lines


def test_a_site_aside_is_a_column_and_in_no_mean_and_runs_that_failed_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [record("fedmepd", "dice", 0.4), record("fedmepd", "dice", 0.1, "anchor")]
    failed = [{"method": "local", "repeat": 2, "reason": "Expected numbers."}]
    told_of = {"failed": failed, "settings": {"repeats": 3}}
    print_summary(summarise(records, {"anchor"}), None, {"anchor"}, told_of)
    told = capsys.readouterr().out

    assert "means without anchor" in " ".join(told.split())
    assert "over the 1 of 3 repeats" in " ".join(told.split())
    rows = [line.replace("│", " ").split() for line in told.splitlines()]
    assert ["fedmepd", "0.400", "-", "-", "-", "-"] in rows
    assert ["fedmepd", "0.100", "0.400", "0.400"] in rows  # the anchor, the site, the worst of them
    assert ["local", "2", "Expected", "numbers."] in rows


def test_no_line_is_wider_than_the_screen_with_fifteen_subsets_of_many_methods(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = ("flair", "t1", "t1ce", "t2")
    subsets = ["+".join(c) for n in range(1, 5) for c in itertools.combinations(names, n)]
    methods = ("fedmepd_no_calibration", "scan_fedavg_zero_filled", "fedmepd")
    records = [record(m, "dice", 0.5) for m in methods]
    records += [record(m, f"dice/personal/wt/{s}", 0.5) for m in methods for s in subsets]
    print_summary(summarise(records))
    told = capsys.readouterr().out
    assert max(len(line) for line in told.splitlines()) <= output.screen.width
    figures = [line for line in told.splitlines() if "scan_fedavg_zero_filled" in line]
    assert sum(line.count("0.500") for line in figures) == len(subsets) + 3  # over sites, by site


def test_few_repeats_are_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    for repeats, shown in ((1, False), (3, True), (6, False)):
        records = [
            record("local", "auroc", 0.5 + r / 100, site) | {"repeat": r}
            for r in range(repeats)
            for site in ("c1", "c2")
        ]
        lines = printed(records, capsys)
        assert (["local", "0.500", "0.510", "0.520"] in lines) == shown
