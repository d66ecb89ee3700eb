"""Turn a download of TCGA breast or lung, of chest films or of brain scans into site folders.

    python poc/cohorts.py tcga_brca --source DIR --plan paper3 --out sites/brca_paper3
    python poc/cohorts.py cxr --source DIR --plan nih_hannover --out sites/cxr
    python poc/cohorts.py lgg --source DIR --plan sites5 --out sites/lgg
    python poc/cohorts.py brats --source DIR --plan brats2018 --out sites/brats

SOURCE is a folder with the tables of one cohort (``patients.csv`` and one table per modality; see
``LAYOUTS``). A plan says which regions or hospitals make up a site and which modalities the site
holds; ``poc/plans`` has two per cohort, and a path to a JSON file of your own is as good.

OUT receives ``study.json`` and ``panels.json`` (the agreement: one panel for all sites) and, per
site, ``polyclinic.yaml``, ``manifest.csv`` and one parquet per modality of the plan. What a site
lacks by plan is written too, marked ``evaluation_only``: never trained on nor announced, but there
to score every method on all sites' test patients. Films (``cxr``) and scans (``lgg``, ``brats``)
have plans and folders of their own, see ``films.py`` and ``scans.py``.
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ValidationError

from brats import build_brats
from download import PLANS, informative, read_patients, read_table
from films import FilmPlan, build_films
from layouts import LAYOUTS, Layout, Plan, SitePlan
from lgg import build_lgg
from polyclinic.cli import output
from polyclinic.errors import DataError, PolyclinicError
from polyclinic.settings import load_settings
from polyclinic.study import load_study
from scans import ScanPlan

FILMS, GLIOMAS, BRATS = "cxr", "lgg", "brats"
# Of every cohort that has no plan called paper3.
DEFAULT_PLANS = {FILMS: "nih_hannover", GLIOMAS: "sites5", BRATS: "brats2018"}
Kind = TypeVar("Kind", bound=BaseModel)
SITE_HEADER = """\
# {site}: written by poc/cohorts.py from a public research cohort.
# minimum_cell is 1 because these patients are published one by one; a hospital keeps the default.
"""


def read_plan(cohort: str, name: str, kind: type[Kind]) -> Kind:
    """A shipped plan by name, or any by path.

    Raises:
        DataError: no such plan, or it is not one of this kind.
    """
    path = Path(name) if name.endswith(".json") else PLANS / f"{cohort}_{name}.json"
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        shipped = sorted(p.stem.removeprefix(f"{cohort}_") for p in PLANS.glob(f"{cohort}_*.json"))
        raise DataError(
            expected=f"a plan: one of {shipped} or a JSON file",
            got=f"{type(error).__name__} ({error})"
            if isinstance(error, ValidationError)
            else f"'{name}', which is none",
            remedy="name a plan that exists, or mend the file",
        ) from None


def load_plan(cohort: str, name: str) -> Plan:
    """A plan of tables.

    Raises:
        DataError: no such plan, or it does not fit the cohort.
    """
    plan = read_plan(cohort, name, Plan)
    unknown = sorted(set(plan.modalities) - set(LAYOUTS[cohort].tables))
    if unknown:
        raise DataError(
            expected=f"modalities of {cohort}: {sorted(LAYOUTS[cohort].tables)}",
            got=f"{unknown}",
            remedy="correct the plan",
        )
    return plan


def assign(people: pd.DataFrame, plan: Plan) -> pd.Series:
    """Site of every patient.

    Raises:
        DataError: naming the hospitals that no site of the plan takes.
    """
    by_hospital = {h: site for site, p in plan.sites.items() for h in p.hospitals}
    by_region = {r: site for site, p in plan.sites.items() for r in p.regions}
    named = people["hospital"].map(by_hospital).astype(object)
    site = named.where(named.notna(), people["region"].map(by_region).astype(object))
    if site.isna().any():
        homeless = sorted(set(people.loc[site.isna(), "hospital"].astype(str)))
        raise DataError(
            expected="a site for every patient",
            got=f"{int(site.isna().sum())} patients of {len(homeless)} hospitals without one: "
            f"{homeless[:5]}",
            remedy="add their hospital or region to the plan, or to plans/hospital_regions.json",
        )
    return site


def build(cohort: str, source: Path, plan: Plan, out: Path) -> list[list[object]]:
    """Write the study and every site; one row per site: patients, positives, modalities."""
    layout = LAYOUTS[cohort]
    refuse_leftovers(plan.sites, out)
    with output.progress("reading tables", len(layout.tables)) as advance:
        tables = {}
        for name, table in layout.tables.items():
            if name in plan.modalities or layout.complete:
                tables[name] = read_table(source, table)
            advance(1)
    people = read_patients(source, layout)
    have = pd.DataFrame({m: people.index.isin(t.index) for m, t in tables.items()}, people.index)
    people = people[have.all(axis=1) if layout.complete else have.any(axis=1)]
    people = people.assign(site=assign(people, plan))
    used = {m: tables[m].loc[tables[m].index.isin(people.index)] for m in plan.modalities}
    panels = {m: informative(frame) for m, frame in used.items()}
    write_study(cohort, layout, panels, out)
    rows: list[list[object]] = []
    for site, held in plan.sites.items():
        mine = people[people["site"] == site]
        carried = [mine.index.isin(used[m].index) for m in held.modalities]
        mine = mine[np.logical_or.reduce(carried)]
        write_site(cohort, layout, site, mine, {m: used[m][panels[m]] for m in used}, held, out)
        positive = int((mine[layout.label] == list(layout.labels.values())[-1]).sum())
        rows.append([site, len(mine), positive, "+".join(held.modalities), len(set(mine.hospital))])
    return rows


def refuse_leftovers(sites: Collection[str], out: Path) -> None:
    """Sites of another plan in the same folder would be taken for sites of this one."""
    there = {p.parent.name for p in out.glob("*/polyclinic.yaml")} - set(sites)
    if there:
        raise DataError(
            expected="an empty folder, or one with the same sites",
            got=f"{len(there)} other site(s): {sorted(there)[:3]}",
            remedy="write to another folder",
        )


def write_study(cohort: str, layout: Layout, panels: dict[str, list[str]], out: Path) -> None:
    """``study.json`` and ``panels.json``, read back to make sure that they are valid."""
    modalities = {m: {"kind": "vector", "units": layout.tables[m].units} for m in panels}
    study: dict[str, Any] = {
        "name": cohort,
        "task": {"label": layout.label, "classes": list(layout.labels.values())},
        "modalities": modalities,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")
    lines = [f'"{m}": {json.dumps({"features": names})}' for m, names in panels.items()]
    (out / "panels.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    load_study(out)


def write_site(
    cohort: str,
    layout: Layout,
    site: str,
    people: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    held: SitePlan,
    out: Path,
) -> None:
    """One site folder, read back to make sure that it is valid."""
    folder = out / site
    folder.mkdir(parents=True, exist_ok=True)
    manifest = people[[layout.label]].rename_axis("patient_id").reset_index()
    manifest.to_csv(folder / "manifest.csv", index=False)
    sources: dict[str, dict[str, Any]] = {}
    for name, frame in tables.items():
        mine = frame.loc[frame.index.isin(people.index)].sort_index()
        mine.copy().rename_axis("patient_id").reset_index().to_parquet(folder / f"{name}.parquet")
        sources[name] = {
            "kind": "vector",
            "table": f"{name}.parquet",
            "units": layout.tables[name].units,
        }
        if name not in held.modalities:
            sources[name]["evaluation_only"] = True
    settings = {"site": site, "minimum_cell": 1, "cohorts": {cohort: {"modalities": sources}}}
    text = SITE_HEADER.format(site=site) + yaml.safe_dump(settings, sort_keys=False)
    (folder / "polyclinic.yaml").write_text(text, encoding="utf-8")
    load_settings(folder / "polyclinic.yaml")


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0, or 4 when the download or the plan is not as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cohort", choices=sorted([*LAYOUTS, *DEFAULT_PLANS]))
    parser.add_argument("--source", type=Path, required=True, help="folder of the download")
    parser.add_argument(
        "--plan",
        default="",
        help="name in poc/plans, or a JSON file (default: paper3; of cxr nih_hannover, of lgg "
        "sites5, of brats brats2018)",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="of brats: another number of patients than published, sites in proportion",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, one per plan")
    asked = parser.parse_args(argv)
    name = asked.plan or DEFAULT_PLANS.get(asked.cohort, "paper3")
    try:
        if asked.cohort == FILMS:
            return films_of_plan(asked.source, name, asked.out)
        if asked.cohort in (GLIOMAS, BRATS):
            return scans_of_plan(asked, name)
        rows = build(asked.cohort, asked.source, load_plan(asked.cohort, name), asked.out)
    except PolyclinicError as error:
        output.refuse(error)
        return output.BAD_INPUT
    positive = list(LAYOUTS[asked.cohort].labels.values())[-1]
    columns = ["site", "patients", positive, "holds", "hospitals"]
    total = [sum(int(str(row[i])) for row in rows) for i in (1, 2, 4)]
    rows.append(["all", total[0], total[1], "", total[2]])
    output.table(f"{asked.cohort}, plan {name}", columns, rows)
    return output.OK


def films_of_plan(source: Path, name: str, out: Path) -> int:
    """Write the sites of a plan of films and say what is in them."""
    plan = read_plan(FILMS, name, FilmPlan)
    refuse_leftovers(plan.sites, out)
    rows = build_films(source, plan, out)
    output.table(f"{FILMS}, plan {name}", ["site", "patients", "films", "labels", "holds"], rows)
    return output.OK


def scans_of_plan(asked: argparse.Namespace, name: str) -> int:
    """Write the sites of a plan of scans and say what is in them."""
    plan = read_plan(asked.cohort, name, ScanPlan)
    refuse_leftovers(plan.sites, asked.out)
    if asked.cohort == GLIOMAS:
        rows = build_lgg(asked.source, plan, asked.out)
        columns = ["site", "patients", "slices", "holds", "anchor"]
    else:
        rows = build_brats(asked.source, plan, asked.out, partial=asked.allow_partial)
        columns = ["site", "patients", "holds", "anchor"]
    output.table(f"{asked.cohort}, plan {name}", columns, rows)
    after = f", then the job {plan.job}" if plan.job else ""
    told = f"next: polyclinic data check {asked.out / next(iter(plan.sites))}{after}"
    output.screen.print(told, markup=False, soft_wrap=True)
    return output.OK


if __name__ == "__main__":
    sys.exit(main())
