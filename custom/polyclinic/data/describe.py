"""The shape of a cohort in counts that may be shown: none below the site's smallest cell."""

from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor

from polyclinic.data.bag import BagColumn
from polyclinic.data.cohort import Cohort
from polyclinic.data.column import Column, Reading, Summarised
from polyclinic.data.field_summary import field_summary
from polyclinic.data.labels import different, most_rows
from polyclinic.data.split import SPLIT_NAMES
from polyclinic.data.suppression import cell, suppressed
from polyclinic.data.vector import VectorColumn

SHOWN_FIELDS = 10


def describe_cohort(cohort: Cohort) -> dict[str, Any]:
    """Patients by split and presence pattern, and per modality shape and missingness; JSON-able.

    Where patients have several records, patients are counted; a patient whose records carry
    different modalities is in several patterns.
    """
    minimum = cohort.minimum_cell
    records, study = cohort.records, cohort.study
    owners = records.manifest.owners
    people = different(owners)
    several = {"records": len(owners) if people >= minimum else f"<{minimum}"}
    # So many rows are of a smallest cell of patients, whoever they are.
    rows = minimum * most_rows(owners)
    present = {m: r.column.present for m, r in sorted(records.readings.items())}
    held = set(cohort.modalities)
    return {
        "site": cohort.site,
        "cohort": study.name,
        "minimum_cell": minimum,
        "patients": cell(people, minimum),
        **(several if cohort.settings.cohort(study.name).record_column else {}),
        "splits": suppressed(
            {s: cohort.distinct(s) for s in SPLIT_NAMES if cohort.size(s)}, minimum
        ),
        "patterns": suppressed(patterns(present, owners), minimum),
        "quarantine": dict(records.report.counts),
        **({"masks": records.together.summary(rows)} if records.together is not None else {}),
        "modalities": {
            m: {
                "kind": study.modalities[m].kind,
                "width": study.modalities[m].width,
                "patients": cell(different(owners[there]), minimum),
                "trained_on": m in held,
                **_details(records.readings[m].column, study.modalities[m].features, rows),
                **_fields(records.readings[m], rows),
            }
            for m, there in present.items()
        },
    }


def patterns(present: dict[str, Tensor], owners: Tensor) -> dict[str, int]:
    """Patients by the modalities they carry, such as ``cnv+wsi``; most frequent first."""
    names = list(present)
    table = torch.stack([present[m] for m in names], dim=1).tolist()  # (P, M)
    each = [
        "+".join(m for m, there in zip(names, row, strict=True) if there) or "none" for row in table
    ]
    found = Counter(pattern for pattern, _ in set(zip(each, owners.tolist(), strict=True)))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _details(column: Column, features: tuple[str, ...], minimum: int) -> dict[str, Any]:
    """What a kind has to say beyond the count of patients."""
    if isinstance(column, VectorColumn):
        return {"missing": missingness(column, features, minimum)}
    if isinstance(column, BagColumn):
        return {"instances": instances(column, minimum)}
    return {"summary": column.summary(minimum)} if isinstance(column, Summarised) else {}


def _fields(reading: Reading, minimum: int) -> dict[str, Any]:
    """The features of a panel one by one, where it is short enough."""
    told = field_summary(reading.facts, int(reading.column.present.sum()), minimum)
    return {"fields": told} if told else {}


def missingness(column: VectorColumn, features: tuple[str, ...], minimum: int) -> dict[str, Any]:
    """Share of absent values over patients that carry the modality: overall and worst fields.

    A field's share is hidden where it would reveal a group smaller than ``minimum``.
    """
    there = column.fields[column.present]  # (k, F)
    patients = int(there.shape[0])
    if patients < minimum:
        return {}
    absent = (~there).sum(dim=0)
    order = cast(list[int], torch.argsort(absent, descending=True, stable=True).tolist())
    worst = {
        features[i]: share(int(absent[i]), patients, minimum)
        for i in order[:SHOWN_FIELDS]
        if int(absent[i])
    }
    return {"share": round(float(absent.sum()) / there.numel(), 3), "worst_fields": worst}


def share(absent: int, patients: int, minimum: int) -> float | str:
    """A share, or "hidden" where either side of it is a small group of patients."""
    small = 0 < absent < minimum or 0 < patients - absent < minimum
    return "hidden" if small else round(absent / patients, 3)


def instances(column: BagColumn, minimum: int) -> dict[str, Any]:
    """Quartiles of instances per patient; extremes would be single patients."""
    counts = [float(b.count) for b in column.bags if b is not None]
    if len(counts) < minimum:
        return {}
    quartiles = torch.tensor(counts).quantile(torch.tensor([0.25, 0.5, 0.75]))
    return dict(zip(("q1", "median", "q3"), quartiles.tolist(), strict=True))
