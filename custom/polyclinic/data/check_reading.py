"""All modalities of a cohort read for a check, which goes on where one cannot be read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from polyclinic.data.column import Reading, Request, kind_reader
from polyclinic.data.finding import Finding, failed
from polyclinic.data.quarantine import Entry
from polyclinic.data.scan import read_scans
from polyclinic.data.selection import Together
from polyclinic.errors import DataError
from polyclinic.settings import CohortSource
from polyclinic.study import Study


@dataclass(frozen=True)
class ReadAll:
    """What reading a cohort's modalities came to.

    Attributes:
        entries, together, notes: of a study that segments, of all of its modalities.
    """

    readings: Mapping[str, Reading]
    findings: tuple[Finding, ...] = ()
    entries: tuple[Entry, ...] = ()
    together: Together | None = None
    notes: tuple[str, ...] = ()


def read_each(asked: Iterable[Request]) -> ReadAll:
    """Every modality read by itself; one that cannot be read leaves the others."""
    readings, findings = {}, []
    for request in asked:
        try:
            readings[request.name] = kind_reader(request.modality.kind).read(request)
        except DataError as error:
            findings.append(failed("readability", error, request.name))
    return ReadAll(readings, tuple(findings))


def read_together(asked: Sequence[Request], source: CohortSource, study: Study) -> ReadAll:
    """The sequences of a scan, which are read together or not at all."""
    try:
        read = read_scans(asked, source, study)
    except DataError as error:
        return ReadAll({}, (failed("readability", error),))
    return ReadAll(read.readings, (), read.entries, read.scans, read.notes)
