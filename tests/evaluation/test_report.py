"""The report page: true to the ledger, safe to open, complete in itself."""

import hashlib
import re

import pytest

from polyclinic.evaluation import report
from polyclinic.evaluation.gallery import by_round
from polyclinic.evaluation.repeats import compared
from polyclinic.evaluation.site_rows import by_label, site_rows
from polyclinic.ledger import Ledger, read_ledger

QUIET = {"refused": {}, "failed": {}, "late": [], "absent": [], "lost": []}


def start(**more):
    return {"kind": "start", "run": "run-1", "rounds": 2, "min_sites": 2, "study": "ab"} | more


def census(**sites):
    told = {
        name: {"modalities": held, "counts": {"n": 40.0}, "quarantined": {}, "version": "0.1.0"}
        for name, held in sites.items()
    }
    return {"kind": "census", "sites": told, **QUIET}


def round_(t, heard=("a", "b"), metrics=None, **more):
    sizes = {"a": {"enc.he": 1000, "head.he": 24}, "b": {"enc.cnv": 500}}
    return {
        "kind": "round",
        "round": t,
        "status": "folded",
        "heard": list(heard),
        "bytes_in": {s: sizes[s] for s in heard},
        "bytes_out": sizes,
        "metrics": metrics or {},
        "seconds": 1.0,
        **QUIET,
        **more,
    }


def run():
    return [
        start(),
        census(a=["he"], b=["cnv"]),
        round_(1, metrics={"a": {"validation/auroc": 0.6}, "b": {"validation/auroc": 0.7}}),
        round_(2, heard=["a"], metrics={"a": {"validation/auroc": 0.8}}, refused={"b": "step"}),
        {"kind": "evaluate", "round": 2, "metrics": {"a": {"test/auroc": 0.75}}, **QUIET},
        {"kind": "end", "status": "completed", "reason": "", "round": 2},
    ]


def text_of(page):
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def cells_of(page):
    found = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, flags=re.DOTALL)
    return [re.sub(r"<[^>]+>", "", c).replace("&#39;", "'").strip() for c in found]


def test_bytes_are_summed_over_the_rounds_that_counted():
    a, b = site_rows(run())
    assert (a.sent, b.sent) == (2 * 1024, 500)
    assert (a.received, b.received) == (2 * 1024, 2 * 500)
    assert (a.rounds, b.rounds) == (2, 1)


def test_the_score_is_that_of_the_test_and_else_the_last_on_validation():
    a, b = site_rows(run())
    assert (a.auroc, b.auroc) == (0.75, 0.7)


def test_a_site_that_told_no_score_has_none():
    records = [start(), census(a=["he"]), round_(1, heard=["a"])]
    assert site_rows(records)[0].auroc is None
    assert "–" in text_of(report.render(records))


def test_a_series_skips_the_rounds_a_site_was_not_heard_in():
    assert by_round(run(), "validation/auroc") == {
        "a": [(1, 0.6), (2, 0.8)],
        "b": [(1, 0.7)],
    }


@pytest.mark.parametrize("key", report.ABSENCES)
def test_every_answer_that_did_not_count_is_named_with_its_reason(key):
    entry = {"b": "some_code"} if key in ("refused", "failed") else ["b"]
    records = [start(), census(a=["he"], b=["cnv"]), round_(1, heard=["a"], **{key: entry})]
    why = "some_code" if key in ("refused", "failed") else ""
    assert report.trouble(records) == [("round 1", "b", report.ABSENCES[key], why)]
    assert report.ABSENCES[key] in text_of(report.render(records))


def test_what_was_set_aside_is_listed_by_site_and_reason():
    records = run()
    records[1]["sites"]["b"]["quarantined"] = {"unreadable": 2, "bad_label": 1}
    assert report.quarantined(records) == [("b", "bad_label", 1), ("b", "unreadable", 2)]
    assert "bad_label" in text_of(report.render(records))


def test_the_page_of_an_unfinished_run_says_so():
    assert "not finished" in text_of(report.render(run()[:3]))
    assert "not finished" in text_of(report.render([start()]))


def test_the_hash_is_that_of_the_ledgers_last_line(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for record in run():
        ledger.append(record)
    last = (tmp_path / "ledger.jsonl").read_bytes().splitlines()[-1]
    wanted = hashlib.sha256(last).hexdigest()
    records = read_ledger(tmp_path / "ledger.jsonl")
    assert report.ledger_hash(records) == wanted
    assert wanted in report.render(records)


@pytest.mark.parametrize(
    "first", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"]
)
def test_no_cell_starts_with_what_a_spreadsheet_runs(first):
    records = run()
    records[1]["sites"][first] = {
        "modalities": [first],
        "counts": {"n": -1.0},
        "quarantined": {first: 1},
        "version": first,
    }
    records[2]["refused"] = {first: first}
    records[2]["metrics"][first] = {"validation/auroc": -0.5}
    records[2]["bytes_in"][first] = {first: 10}
    comparison = {
        "records": [
            {"method": first, "site": first, "repeat": 0, "test": "own"}
            | {"metric": "auroc", "value": -0.25}
        ]
    }
    page = report.render(records, study={"name": first}, comparison=comparison)
    assert not [c for c in cells_of(page) if c[:1] in tuple("=+-@\t\r\n")]


def test_names_are_text_and_never_markup():
    evil = "<script>alert(1)</script><img src=x onerror=y>"
    records = run()
    records[1]["sites"][evil] = records[1]["sites"]["a"]
    records[2]["refused"] = {evil: evil}
    page = report.render(records, study={"name": evil})
    assert "<script" not in page
    assert "onerror=y>" not in page


def test_the_page_loads_nothing():
    page = report.render(run(), comparison={"records": []})
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/png;base64,)""", page)
    assert "http://" not in page
    assert "https://" not in page


def test_repeats_are_folded_to_mean_and_standard_deviation():
    records = [
        {"method": "m", "site": "a", "repeat": i, "test": "pooled", "metric": "auroc", "value": v}
        for i, v in enumerate([0.6, 0.8])
    ]
    records += [
        {"method": "m", "site": "a", "repeat": 0, "test": "pooled", "metric": "brier", "value": 9},
        {
            "method": "m",
            "site": "b",
            "repeat": 0,
            "test": "pooled",
            "metric": "auroc",
            "value": None,
        },
    ]
    (row,) = compared({"records": records})["pooled"].rows
    assert row.means == {"a": pytest.approx(0.7)}
    # two values 0.2 apart: variance (0.1² + 0.1²) / (2 - 1)
    assert row.spreads == {"a": pytest.approx(0.02**0.5)}
    assert row.repeats == 2


def compare(values, repeats=2):
    """Records with the same value in every repeat, on both tests."""
    return {
        "records": [
            {"method": m, "site": "a", "repeat": i, "test": t, "metric": "auroc", "value": v}
            for m, v in values.items()
            for i in range(repeats)
            for t in ("own", "pooled")
        ]
    }


def test_the_page_compares_on_the_repeats_and_sites_that_the_summary_does():
    comparison = compare({"local": 0.6, "fedmm": 0.5}, repeats=2)
    hard = {"site": "a", "repeat": 2, "metric": "auroc", "value": 0.1}
    anchor = {"site": "anchor", "repeat": 0, "metric": "auroc", "value": 0.9}
    comparison["records"] += [
        {"method": "local", "test": "own", **hard},  # where fedmm failed
        {"method": "fedmm", "test": "own", **anchor},
    ]
    comparison["failed"] = [{"method": "fedmm", "repeat": 2, "reason": "Expected numbers."}]
    comparison["aside"] = ["anchor"]
    text = text_of(report.render(run(), comparison=comparison))
    assert "local is ahead with a mean AUROC of 0.600; then fedmm 0.500" in text
    assert "1 run failed" in text
    assert "Expected numbers." in text
    assert "Not in any mean: anchor." in text


FEDMM = "polyclinic.algorithms.fedmm.Server"


def test_the_page_says_which_algorithm_and_which_job_ran():
    text = text_of(report.render([start(algorithm=FEDMM), *run()[1:]], job="fedmm_demo"))
    assert "Algorithm: FedMM" in text
    assert "Job fedmm_demo" in text


def test_the_page_says_who_is_ahead_even_when_it_is_a_baseline():
    records = [start(algorithm=FEDMM), *run()[1:]]
    values = {"local": 0.80, "multi_fedavg": 0.87, "fedmm": 0.84}
    text = text_of(report.render(records, comparison=compare(values)))
    assert text.count("multi_fedavg is ahead with a mean AUROC of 0.870") == 2
    # 0.87 - 0.84 and 0.84 - 0.80
    assert "0.030 behind multi_fedavg and 0.040 ahead of every site training alone" in text


@pytest.mark.parametrize(("repeats", "told"), [(1, False), (2, False), (3, True)])
def test_a_spread_is_told_of_three_repeats_and_more(repeats, told):
    page = report.render(run(), comparison=compare({"local": 0.8}, repeats))
    assert ("±" in page) is told
    assert ("whiskers" in page) is told


def test_the_marks_of_a_modality_are_counted_with_its_prototypes():
    sizes = {"store.count.he": 8, "store.proto.he": 256, "enc.he": 1000, "head.he": 24}
    records = [start(), census(a=["he"]), round_(1, heard=["a"], bytes_in={"a": sizes})]
    (row,) = site_rows(records)
    assert row.groups == {"store.he": 264, "enc.he": 1000, "head.he": 24}
    page = report.render(records)
    assert "store.count" not in page
    assert "264 B" in cells_of(page)


def test_every_table_and_picture_scrolls_in_a_box_of_its_own():
    comparison = compare({"local": 0.8})
    page = report.render(run(), comparison=comparison)
    for opening in ("<table>", "<img "):
        assert page.count(opening) > 1
        assert page.count(opening) == page.count(f'<div class="wide">{opening}')


def test_what_a_site_does_not_tell_is_not_called_nothing():
    assert "not told" in cells_of(report.render(run()))
    assert "not told (fewer than the site's minimum cell)" in text_of(report.render(run()))


LABELS = {"name": "films", "task": {"labels": {"pneumonia": {}, "view_ap": {}}}}


def test_each_label_is_told_by_site_and_a_dash_where_it_is_not_known():
    records = run()
    records[4]["metrics"] = {
        "a": {"test/auroc": 0.7, "test/auroc/pneumonia": 0.61, "test/auroc/view_ap": 0.79},
        "b": {"test/auroc": 0.88, "test/auroc/view_ap": 0.88},
    }
    rows = {r.name: r.labels for r in site_rows(records)}
    assert rows == {"a": {"pneumonia": 0.61, "view_ap": 0.79}, "b": {"view_ap": 0.88}}
    text = text_of(report.render(records, study=LABELS))
    assert "Predicts pneumonia, view_ap, each yes or no." in text
    assert "AUROC by label site pneumonia view_ap a 0.610 0.790 b – 0.880" in text
    assert "mean over the labels that the site knows" in text


def test_many_labels_of_few_sites_stand_below_each_other_as_a_page_is_higher_than_wide():
    names = ("edema", "fracture", "mass")
    records = run()
    records[4]["metrics"] = {"a": {"test/auroc/edema": 0.7, "test/auroc/fracture": 0.8}}
    records[4]["metrics"]["b"] = {"test/auroc/mass": 0.9}
    study = {"name": "films", "task": {"labels": {name: {} for name in names}}}
    told = "label a b edema 0.700 – fracture 0.800 – mass – 0.900"
    assert told in text_of(report.render(records, study=study))


def test_a_label_is_told_on_test_patients_where_it_was_and_else_on_validation_patients():
    found = by_label(
        {"validation/auroc/x": 0.5, "test/auroc/x": 0.6, "validation/auroc/y": 0.7, "auroc": 0.1}
    )
    assert found == {"x": 0.6, "y": 0.7}


def test_a_study_of_classes_is_reported_without_labels():
    study = {"name": "s", "task": {"label": "y", "classes": ["no", "yes"], "labels": {}}}
    text = text_of(report.render(run(), study=study))
    assert "Predicts y (no or yes)." in text
    assert "AUROC by label" not in text


def test_a_label_that_the_study_does_not_ask_for_gets_no_column():
    records = run()
    records[4]["metrics"] = {"a": {f"test/auroc/x{i}": 0.5 for i in range(500)}}
    page = report.render(records, study=LABELS)
    assert "x499" not in page
    assert "AUROC by label" not in text_of(page)


MASKED = {
    "name": "brains",
    "task": {"mask": {"classes": ["background", "edema"], "regions": {"wt": ["edema"]}}},
    "modalities": {"flair": {}, "t1": {}},
}


def segmented():
    """A run of two sites of which ``c`` is the anchor site."""
    records = [
        start(),
        {**census(a=["flair", "t1"], c=["flair", "t1"]), "anchor": "c"},
        {
            "kind": "anchor",
            "round": 0,
            "site": "c",
            "status": "absorbed",
            "seconds": 3.0,
            "bytes_in": {"c": {"dec": 200, "store.anchor.1": 40, "store.anchor.2": 60}},
        },
        round_(1, ["a"], metrics={"a": {"validation/dice": 0.5, "filters/personal": 0.25}}),
    ]
    records[-1]["anchor"] = {"site": "c", "status": "kept_last", "reason": "late", "seconds": 9.0}
    scores = {
        "test/dice": 0.8,
        "test/dice/personal/wt/flair+t1": 0.8,
        "test/dice/personal/wt/t1": 0.61,
        "test/dice/global/wt/flair+t1": 0.7,
        "test/hd95/personal/wt/flair+t1": 6.54,
    }
    return [*records, {"kind": "evaluate", "round": 1, "metrics": {"a": scores}, **QUIET}]


def test_a_segmentation_is_told_by_dice_and_by_region_and_model():
    text = text_of(report.render(segmented(), study=MASKED))
    assert "Segments wt in scans of flair, t1." in text
    assert (
        "site model wt mean wt mean a personal 0.800 0.800 6.5 6.5 global 0.700 0.700 – –" in text
    )
    assert "Dice is on the site's own test patients" in text
    assert "AUROC" not in text
    (a, _) = site_rows(segmented())
    assert (a.metric, a.score) == ("dice", 0.8)


def test_each_set_of_sequences_is_a_row_of_what_was_given_and_what_came_of_it():
    text = text_of(report.render(segmented(), study=MASKED))
    assert "flair t1 personal global a c ○ ● 0.610 – 0.610 – ● ● 0.800 0.700 0.800 –" in text


def test_the_anchor_site_and_its_steps_are_named():
    page = report.render(segmented(), study=MASKED)
    text = text_of(page)
    assert "anchor site" in cells_of(page)[cells_of(page).index("c") + 1]
    assert "1 of the steps did not count" in text
    assert "before the first – – counted c 3.0 1 1 1.0 last values kept: late c 9.0" in text
    assert ("round 1", "c", "anchor step did not count", "late") in report.trouble(segmented())


def test_what_the_anchor_site_sent_is_counted():
    (_, c) = site_rows(segmented())
    assert c.sent == 300
    assert c.groups == {"dec": 200, "store.anchor": 100}


def test_a_run_without_anchor_site_says_nothing_of_it():
    text = text_of(report.render(run()))
    assert "nchor" not in text
    assert "personal and of the global" not in text


def test_filters_and_dice_by_round_are_drawn():
    page = report.render(segmented(), study=MASKED)
    assert 'alt="Share of personal filters by site and round"' in page
    assert 'alt="Dice by site and round"' in page


def test_methods_are_compared_by_dice_where_it_was_measured():
    comparison = compare({"local": 0.8, "fedmepd": 0.9})
    for record in comparison["records"]:
        record["metric"] = "dice"
    text = text_of(report.render(segmented(), study=MASKED, comparison=comparison))
    assert "fedmepd is ahead with a mean Dice of 0.900; then local 0.800" in text


def test_only_a_page_with_pictures_of_patients_says_that_it_stays_at_the_site():
    without = text_of(report.render(segmented(), study=MASKED))
    assert "pictures of patients" not in without
    page = report.render(segmented(), study=MASKED, overlays={"p1": "data:image/png;base64,AAAA"})
    assert "This page holds pictures of patients." in text_of(page)
    assert 'src="data:image/png;base64,AAAA"' in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/png;base64,)""", page)
