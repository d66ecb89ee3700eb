"""One pass over a cohort before a study: what is wrong, for whom to mend, without identities."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from polyclinic.data.asked import requests
from polyclinic.data.check_reading import ReadAll, read_each, read_together
from polyclinic.data.cohort import Cohort, Records, assemble, cohort_of
from polyclinic.data.column import Reading, Request, Summarised
from polyclinic.data.field_summary import field_summary, sentence
from polyclinic.data.finding import Finding as Finding
from polyclinic.data.finding import Level, failed
from polyclinic.data.labels import most_rows
from polyclinic.data.manifest import Manifest, read_manifest
from polyclinic.data.prevalence import lacking, prevalence, worded
from polyclinic.data.quarantine import REASONS, QuarantineReport
from polyclinic.data.strangers import Strangers
from polyclinic.data.vector import VectorColumn
from polyclinic.errors import DataError
from polyclinic.settings import SiteSettings
from polyclinic.study import Study

# Bytes that a site holding these modalities sends and receives in a round.
RoundSize = Callable[[Study, tuple[str, ...]], tuple[int, int]]


@dataclass(frozen=True)
class CheckReport:
    """What ``polyclinic data check`` shows.

    Attributes:
        facts: the numbers behind the findings, JSON-able, small counts suppressed.
    """

    site: str
    cohort: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether a job would be accepted: no finding failed."""
        return all(f.level != "failed" for f in self.findings)


def check_cohort(
    settings: SiteSettings,
    study: Study,
    round_size: RoundSize | None = None,
    tick: Callable[[int], None] = lambda patients: None,
) -> CheckReport:
    """Everything that can be said about a cohort before a job runs.

    Args:
        round_size: tells the bytes of a round; the data layer knows no models.
        tick: called with numbers of patients read, for a progress bar.

    Raises:
        SiteError: the site has no cohort of the study's name.
    """
    source = settings.cohort(study.name)
    try:
        manifest = read_manifest(source, study)
        asked = requests(settings, study, manifest)
    except DataError as error:
        return CheckReport(settings.site, study.name, (failed("readability", error),))
    several = f", records of {manifest.people} patients" if source.record_column else ""
    findings = [Finding("readability", "ok", f"manifest of {manifest.rows} rows{several}")]
    strangers = {r.name: Strangers(manifest) for r in asked}
    asked = [replace(r, tick=tick, stranger=strangers[r.name].add) for r in asked]
    read = read_together(asked, source, study) if study.task.segments else read_each(asked)
    findings += read.findings
    readings = read.readings
    rows = settings.minimum_cell * most_rows(manifest.owners)
    for request in asked:
        if request.name in readings:
            findings += _modality(request, readings[request.name], rows)
            findings += _join(request, readings[request.name], strangers[request.name])
    findings += _masks(read, rows)
    records = assemble(manifest, readings, read.entries, read.together)
    findings += [*_identity(manifest, readings), _quarantine(records.report, settings)]
    facts: dict[str, Any] = {"quarantine": dict(records.report.counts)}
    findings += _labels(settings, records, study, facts)
    if round_size is not None:
        findings.append(_round(study, settings, round_size, facts))
    return CheckReport(settings.site, study.name, tuple(findings), facts)


def _masks(found: ReadAll, minimum: int) -> Iterable[Finding]:
    """What is marked, and what a person should know of scans."""
    if found.together is not None:
        told = found.together.summary(minimum)
        classes = ", ".join(f"{k} {v}" for k, v in told.items() if k != "patients")
        yield Finding("masks", "ok", f"of {told['patients']} patients; marked: {classes}")
    for note in found.notes:
        yield Finding("content", "warning", note)


def _modality(request: Request, reading: Reading, minimum: int) -> Iterable[Finding]:
    """Panel, columns, absent values and notes of one modality."""
    name, column = request.name, reading.column
    agreed = [w for w in ("units", "extractor") if getattr(request.modality, w)]
    only = "; for evaluation only, not trained on" if request.source.evaluation_only else ""
    told = f"{', '.join(['kind', *agreed])} as the study says{only}"
    yield Finding("agreement", "ok", told, name)
    if isinstance(column, VectorColumn):
        panel = request.modality.features
        yield _panel(panel, reading.missing_columns, name)
        yield from _columns(panel, column, reading.missing_columns, name)
    elif isinstance(column, Summarised) and (facts := column.summary(minimum)):
        yield Finding("content", "ok", ", ".join(f"{k} {v}" for k, v in facts.items()), name)
    fields = field_summary(reading.facts, int(column.present.sum()), minimum)
    if fields:
        yield Finding("fields", "ok", f"present: {sentence(fields)}", name)
    aside = [f"{f.set_aside} of {f.feature}" for f in reading.facts if f.set_aside]
    if aside:
        told = ", ".join(aside[:5]) + (", ..." if len(aside) > 5 else "")
        remedy = "look at the lines in the quarantine list, and at the column's unit"
        yield Finding("values", "warning", f"set aside: {told}", name, remedy)
    strange = {c: n for c, n in reading.absent.items() if c != "blank"}
    if strange:
        told = ", ".join(f"{n} {cause}" for cause, n in strange.items())
        yield Finding(
            "values", "warning", f"taken as absent: {told}", name, "look at the table's cells"
        )
    for note in reading.notes:
        yield Finding("content", "warning", note, name)


def _join(request: Request, reading: Reading, strangers: Strangers) -> Iterable[Finding]:
    """Whether the ids of one modality are those of the manifest; counts only."""
    told, remedy = strangers.told, strangers.remedy
    patients = len(request.ids)
    if patients and not reading.column.present.any():
        level: Level = "warning" if request.source.evaluation_only else "failed"
        message = "; ".join([f"0 of {patients} patients carry it", *told])
        other = "see the quarantine list, or take the modality out of polyclinic.yaml"
        yield Finding("join", level, message, request.name, remedy or other)
    elif told:
        yield Finding("join", "warning", "; ".join(told), request.name, remedy)


def _panel(panel: tuple[str, ...], missing: tuple[str, ...], name: str) -> Finding:
    """How much of the study's panel the table has."""
    message = f"{len(panel) - len(missing)} of {len(panel)} columns"
    if not missing:
        return Finding("panel", "ok", message, name)
    first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return Finding("panel", "warning", f"{message}; trained with masks for: {first}", name)


def _columns(
    panel: tuple[str, ...], column: VectorColumn, missing: tuple[str, ...], name: str
) -> Iterable[Finding]:
    """Columns of the table that hold nothing, or one value only."""
    if not column.fields.shape[0]:
        return  # a manifest without patients is told elsewhere
    counts = column.fields.sum(dim=0)
    high = torch.where(column.fields, column.values, -torch.inf).amax(dim=0)
    low = torch.where(column.fields, column.values, torch.inf).amin(dim=0)
    groups = {
        "empty": (counts == 0).tolist(),
        "constant": ((counts > 0) & (high == low)).tolist(),
    }
    for what, flags in groups.items():
        names = [f for f, flag in zip(panel, flags, strict=True) if flag and f not in missing]
        if names:
            first = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            yield Finding("columns", "warning", f"{len(names)} {what}: {first}", name)


def _identity(manifest: Manifest, readings: Mapping[str, Reading]) -> Iterable[Finding]:
    """Patients that stand twice; counts only."""
    counts = {
        "leakage": (manifest.leaks, "patient(s) in two splits", ""),
        "duplicates": (manifest.duplicates, "repeated row(s) in the manifest", ""),
    } | {
        f"duplicates {m}": (r.duplicates, "repeated row(s) or slide(s)", m)
        for m, r in readings.items()
    }
    for check, (count, what, name) in counts.items():
        level: Level = "failed" if count else "ok"
        remedy = "keep one row per patient (or record), in one split" if count else ""
        yield Finding(check.split()[0], level, f"{count} {what}", name, remedy)
    if manifest.twins:
        level = "failed" if manifest.parts_twins else "warning"
        message = f"{manifest.twins} id(s) differ from another only in case or leading zeros"
        yield Finding("twins", level, message, remedy="give every patient one id")


def _quarantine(report: QuarantineReport, settings: SiteSettings) -> Finding:
    """What will be left out, and whether that is too much."""
    if not report.entries:
        return Finding("quarantine", "ok", "nothing will be left out")
    told = "; ".join(f"{n} × {code} ({REASONS[code]})" for code, n in report.counts.items())
    message = f"{report.affected} of {report.patients} patients ({report.fraction:.1%}): {told}"
    if report.fraction > settings.max_loss_fraction:
        remedy = "mend them, or raise max_loss_fraction"
        limit = f"more than {settings.max_loss_fraction:.1%} allowed"
        return Finding("quarantine", "failed", f"{message}; {limit}", remedy=remedy)
    return Finding("quarantine", "warning", message)


def _labels(
    settings: SiteSettings, records: Records, study: Study, facts: dict[str, Any]
) -> Iterable[Finding]:
    """Prevalence by split, in patients that carry a modality the site trains on."""
    if not records.readings:
        return
    cohort: Cohort = cohort_of(settings, records, study)
    absent = lacking(cohort)
    if not cohort.size("train"):
        yield Finding("labels", "failed", "no training patients", remedy="check the manifest")
    elif absent:
        message = f"no training patient of: {', '.join(absent)}; AUROC cannot be told"
        yield Finding("labels", "warning", message)
    facts["prevalence"] = prevalence(cohort.selection)
    for split, counts in facts["prevalence"].items():
        yield Finding("labels", "ok", f"{split}: {worded(counts)}")
    facts["minimum_cell"] = settings.minimum_cell


def _round(
    study: Study, settings: SiteSettings, round_size: RoundSize, facts: dict[str, Any]
) -> Finding:
    """The traffic of one round at this site."""
    held = tuple(m for m in settings.cohort(study.name).held if m in study.modalities)
    up, down = round_size(study, held)
    facts["round_bytes"] = {"up": up, "down": down}
    return Finding("round", "ok", f"sends {up / 1e6:.2f} MB and receives {down / 1e6:.2f} MB")
