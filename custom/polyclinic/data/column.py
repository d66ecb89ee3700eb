"""One modality of many patients in memory, and how a kind of data provides it.

A kind is one module ``polyclinic.data.<kind>`` with the three functions of ``KindReader``; adding
a kind adds that file and changes none.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from polyclinic.data.quarantine import Entry
from polyclinic.errors import DataError, StudyError
from polyclinic.settings import Source
from polyclinic.study import Modality


class Column(Protocol):
    """One modality of P patients, row-aligned with the cohort.

    A class attribute ``costly = True``, which is optional, asks for its batches to be made ahead
    in a thread (``polyclinic.data.prefetch``): ``collate`` is then called by that thread. An
    attribute ``row_bytes``, optional too, tells the bytes of one row's inputs where they are many;
    a batch is then held to what a machine can bear (``polyclinic.data.selection``).
    """

    @property
    def present(self) -> Tensor:
        """Which patients have it; (P,) bool."""
        ...

    def prepared(self, train: Tensor) -> "Column":
        """The column as a model reads it, with statistics of the rows ``train`` (k,) int64."""
        ...

    def collate(
        self, rows: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Inputs and fields of rows (B,) int64, shaped as ``Batch`` says; zero where absent.

        ``generator`` is there in training only: a kind that augments draws from it.
        """
        ...


@runtime_checkable
class Summarised(Protocol):
    """A column that can tell more of itself than who has it; ``describe`` and ``check`` show it.

    Optional: a kind adds this method to its column, and no other file needs to know the kind.
    """

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Facts by name, each a number or a few words without identities.

        Nothing about fewer than ``minimum`` patients (``suppression.cell``, ``quartiles``), and no
        extremes: the largest film is one patient's.
        """
        ...


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Attributes:
        name: of the modality.
        key: patient column.
        ids: patients in the order of the column's rows.
        seed: of the study, for what a reader draws.
        cache: folder for decoded files; ``None`` decodes anew each time.
        tick: called with a number of patients that were read, for a progress bar.
        manifest: of the cohort, for kinds that need a column of it.
        stranger: called with the id of each row or file of a patient that is not in ``ids``.
    """

    name: str
    modality: Modality
    source: Source
    root: Path
    key: str
    ids: tuple[str, ...] = field(repr=False)
    seed: int = 0
    cache: Path | None = None
    tick: Callable[[int], None] = field(default=lambda patients: None, repr=False)
    manifest: str = "manifest.csv"
    stranger: Callable[[str], None] = field(default=lambda pseudonym: None, repr=False)


@dataclass(frozen=True)
class FieldFact:
    """What a person should know of one feature of a panel.

    Attributes:
        rows: of the cohort, patients or records of theirs, that have it at all.
        set_aside: values that the study calls impossible, and cells it does not know.
        unit: of the study, and of the site where it differs; "" where the study states none.
    """

    feature: str
    rows: int
    set_aside: int = 0
    unit: str = ""


@dataclass(frozen=True)
class Reading:
    """What a reader found.

    Attributes:
        entries: rows or files that were left out.
        absent: values that were absent by cause, over the patients of the cohort.
        missing_columns: names of the panel that the table lacks.
        duplicates: rows or files beyond the first of the same patient or slide.
        outside: rows or files of patients that are not in the manifest.
        notes: what a person should know, without identities.
        facts: of the features of a panel, in its order.
    """

    column: Column
    entries: tuple[Entry, ...] = ()
    absent: dict[str, int] = field(default_factory=dict)
    missing_columns: tuple[str, ...] = ()
    duplicates: int = 0
    outside: int = 0
    notes: tuple[str, ...] = ()
    facts: tuple[FieldFact, ...] = ()


class KindReader(Protocol):
    """The functions of a kind's module."""

    def read(self, request: Request) -> Reading:
        """The column of one modality."""
        ...

    def absent(self, patients: int, modality: Modality) -> Column:
        """A column that no patient has."""
        ...

    def join(self, columns: Sequence[Column]) -> Column:
        """The columns of several sites, one below the other; they are already prepared."""
        ...


def kind_reader(kind: str) -> KindReader:
    """The reader of a kind of the study's closed list.

    Raises:
        StudyError: this version has no reader for it.
    """
    name = f"polyclinic.data.{kind}"
    if importlib.util.find_spec(name) is None:
        raise StudyError(
            expected="kinds that this version reads",
            got=f"'{kind}'",
            remedy="install a version that reads it, or leave the modality out",
        )
    return cast(KindReader, importlib.import_module(name))


def require_agreement(request: Request) -> None:
    """Refuse a source that declares another kind, unit or extractor than the study.

    Raises:
        DataError: naming both sides.
    """
    study, site = request.modality, request.source
    pairs = {
        "kind": (study.kind, site.kind),
        "units": (study.units, site.units),
        "extractor": (study.extractor, site.extractor),
    }
    for what, (agreed, declared) in pairs.items():
        if agreed and agreed != declared:
            raise DataError(
                expected=f"{what} '{agreed}' of modality '{request.name}', as the study says",
                got=f"'{declared}'" if declared else "none declared",
                remedy=f"convert the data, or declare {what} in polyclinic.yaml if they agree",
            )


def rows_of(mask: Tensor) -> Tensor:
    """Positions where a mask is True; (k,) int64."""
    return torch.nonzero(mask).flatten()
