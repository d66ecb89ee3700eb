import hashlib

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from polyclinic.data.cohort import open_cohort
from polyclinic.data.generator import BROKEN, generate_consortium
from polyclinic.settings import load_settings
from polyclinic.study import load_study

SITES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def cohorts(consortium):
    study = load_study(consortium)
    return {s: open_cohort(load_settings(consortium / s / "polyclinic.yaml"), study) for s in SITES}


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate_consortium(tmp_path / name, seed, (30, 30, 30))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_hospitals_are_unlike_in_what_they_hold(cohorts) -> None:
    held = {s: c.modalities for s, c in cohorts.items()}
    assert held == {
        "site-1": ("metadata", "wsi"),
        "site-2": ("cnv", "metadata", "wsi"),
        "site-3": ("cnv", "metadata"),
    }


def test_patients_of_one_site_lack_modalities(cohorts) -> None:
    site = cohorts["site-2"]
    for modality in ("cnv", "wsi"):
        assert 0 < site.count("train", modality) < site.size("train")


def test_what_is_broken_is_quarantined_for_its_reason(cohorts) -> None:
    assert {s: c.quarantine.counts for s, c in cohorts.items()} == BROKEN


def test_a_site_lacks_a_column_and_another_has_gaps(cohorts) -> None:
    assert cohorts["site-1"].records.readings["metadata"].missing_columns == ("grade",)
    gaps = cohorts["site-3"].records.readings["metadata"].column.fields
    assert 0.1 < 1 - gaps.float().mean() < 0.2


def test_no_modality_alone_is_as_good_as_two(cohorts) -> None:
    """AUROC of a logistic regression at the site that has everything, on held-out patients."""
    site = cohorts["site-2"]

    def features(split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        (batch,) = site.batches(split, 10_000)
        both = batch.present["wsi"] & batch.present["cnv"]
        bags = batch.inputs["wsi"].sum(1) / batch.fields["wsi"].sum(1, keepdim=True).clamp(min=1)
        parts = {"wsi": bags[both], "cnv": batch.inputs["cnv"][both]}
        parts["both"] = torch.cat(list(parts.values()), dim=1)
        return {k: v.numpy() for k, v in parts.items()}, batch.labels[both].numpy()

    auroc: dict[str, list[float]] = {"wsi": [], "cnv": [], "both": []}
    for seed in range(5):
        site = cohorts["site-2"].resplit(seed)
        (train, y), (test, truth) = features("train"), features("test")
        for name in auroc:
            model = LogisticRegression(C=0.1, max_iter=1000).fit(train[name], y)
            auroc[name].append(roc_auc_score(truth, model.predict_proba(test[name])[:, 1]))
    mean = {name: float(np.mean(values)) for name, values in auroc.items()}
    assert mean["both"] > max(mean["wsi"], mean["cnv"]) + 0.05
    assert min(mean["wsi"], mean["cnv"]) > 0.55


def test_a_consortium_too_small_to_break_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 20"):
        generate_consortium(tmp_path / "x", 0, (30, 10, 30))
