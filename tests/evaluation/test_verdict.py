"""Sentences on a comparison: the order, the distances, and how far to trust them."""

import pytest

from polyclinic.evaluation.repeats import Compared, Method
from polyclinic.evaluation.verdict import method_of, sentences


def found(repeats=3, **means):
    rows = tuple(Method(m, {"a": v}, {"a": 0.0}, repeats) for m, v in means.items())
    return Compared(("a",), rows)


def test_methods_are_named_from_best_to_worst():
    first, *_ = sentences(found(local=0.6, fedmm=0.7, fedavg=0.8), "own", "", {})
    assert first == (
        "On each site's own test patients, fedavg is ahead with a mean AUROC of 0.800; "
        "then fedmm 0.700, local 0.600."
    )


def test_the_run_is_set_against_the_best_other_method_and_training_alone():
    _, standing, _ = sentences(found(local=0.6, fedmm=0.7, fedavg=0.8), "own", "fedmm", {})
    assert standing == (
        "fedmm, the algorithm of this run, is 0.100 behind fedavg "
        "and 0.100 ahead of every site training alone."
    )


def test_scans_too_are_segmented_by_every_site_alone():
    _, standing, _ = sentences(found(scan_local=0.6, fedmepd=0.7), "own", "fedmepd", {})
    assert "0.100 ahead of every site training alone" in standing


def test_a_winner_is_set_against_the_second():
    _, standing, _ = sentences(found(fedmm=0.9, fedavg=0.8), "own", "fedmm", {})
    assert "0.100 ahead of fedavg" in standing


def test_equal_to_three_digits_is_level():
    _, standing, _ = sentences(found(fedmm=0.8, fedavg=0.8004), "own", "fedmm", {})
    assert "level with fedavg" in standing


def test_without_the_runs_method_only_the_order_is_told():
    assert len(sentences(found(local=0.6, fedavg=0.8), "own", "fedmm", {})) == 1


@pytest.mark.parametrize(
    ("repeats", "interval", "told"),
    [
        (1, (0.1, 0.2), "With 1 repeat such differences may be chance."),
        (2, (0.1, 0.2), "With 2 repeats such differences may be chance."),
        (3, (0.1, 0.2), "leaves out zero"),
        (3, (-0.2, -0.1), "leaves out zero"),
        (3, (-0.1, 0.2), "includes zero"),
    ],
)
def test_a_difference_is_trusted_only_over_repeats_that_agree(repeats, interval, told):
    minus = {"fedavg": {"interval": list(interval)}}
    comparison = {"summary": {"own": {"auroc": {"fedmm": {"minus": minus}}}}}
    trust = sentences(found(repeats, fedmm=0.9, fedavg=0.8), "own", "fedmm", comparison)[-1]
    assert told in trust


@pytest.mark.parametrize(
    ("module", "job", "method"),
    [
        ("fedmm", "fedmm_demo", "fedmm"),
        ("fedmm", "fedmm_plus_tcga_brca", "fedmm_plus"),
        ("multi_fedavg", "fedavg_tcga_brca", "multi_fedavg"),
        ("fedmm", "", "fedmm"),
        ("fedmm", "mine", "mine"),
    ],
)
def test_the_method_of_a_run_is_that_of_its_algorithm_and_its_jobs_name(module, job, method):
    start = {"algorithm": f"polyclinic.algorithms.{module}.Server"}
    known = ["fedavg", "fedmm", "fedmm_plus", "mine", "multi_fedavg"]
    assert method_of(start, job, known) == method


def test_a_run_whose_algorithm_is_not_told_has_no_method():
    assert method_of({}, "fedmm_demo", ["fedmm"]) == ""
