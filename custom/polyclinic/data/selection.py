"""Patients with prepared columns and splits: what an algorithm sees of one or several hospitals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from polyclinic.data.batch import Batch, SplitName
from polyclinic.data.column import Column, kind_reader, rows_of
from polyclinic.data.labels import different, people_of
from polyclinic.data.prefetch import ahead
from polyclinic.data.split import SPLIT_NAMES
from polyclinic.errors import StudyError
from polyclinic.study import Study

# Inputs of one batch that is only looked at: it is cut smaller, which changes no number of a row.
MOST_SHOWN = 1 << 28
# Inputs of one batch to learn from: a job chooses its size, and a site does not fall over it.
MOST_LEARNT = 4 << 30


class Together(Protocol):
    """What several modalities of P rows are read from at once: crops of one scan, and its mask."""

    @property
    def row_bytes(self) -> int:
        """Bytes of what is learnt from one row."""
        ...

    def collate(
        self, rows: Tensor, present: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        """Inputs and fields by modality as in ``Batch``, labels, and the place in ``rows`` of each
        one's row, (B,) int64.

        Args:
            rows: of a batch; one alone where there is no generator, whole and of its own size.
            present: by modality, which of the rows are to show it, (len(rows),) bool.
        """
        ...

    def below(self, others: Sequence[Any]) -> "Together":
        """These rows and those of other sites, one below the other."""
        ...

    def summary(self, minimum: int) -> dict[str, int | float | str]:
        """Facts of what is asked for, as ``Summarised`` has them of a column."""
        ...


@dataclass(frozen=True)
class Selection:
    """Some modalities of P patients, or of P records of theirs; implements ``Patients``.

    Attributes:
        columns: prepared, by modality; rows that have none of them are in no split.
        all_labels: as in ``Batch``; (P,) or (P, L).
        assigned: split of each row.
        minimum_cell: the site's smallest group; of several sites the largest of theirs.
        owners: number of each row's patient, (P,) int64; left out, every row is another patient.
        together: what all columns are read from, of a study that segments.
    """

    site: str
    study: Study
    columns: Mapping[str, Column] = field(repr=False)
    all_labels: Tensor = field(repr=False)
    assigned: Sequence[SplitName] = field(repr=False)
    minimum_cell: int
    owners: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64), repr=False)
    together: Together | None = field(default=None, repr=False)
    _rows: dict[SplitName, Tensor] = field(init=False, repr=False)
    _present: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        present = {m: c.present for m, c in sorted(self.columns.items())}
        count = len(self.assigned)
        carries = torch.zeros(count, dtype=torch.bool)
        for there in present.values():
            carries |= there
        places = torch.tensor([SPLIT_NAMES.index(s) for s in self.assigned], dtype=torch.int64)
        rows = {s: rows_of(carries & (places == i)) for i, s in enumerate(SPLIT_NAMES)}
        if self.owners.numel() != count:
            object.__setattr__(self, "owners", torch.arange(count))
        object.__setattr__(self, "_present", present)
        object.__setattr__(self, "_rows", rows)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities to train on, sorted."""
        return tuple(self._present)

    def size(self, split: SplitName) -> int:
        """Rows of a split that carry at least one modality."""
        return int(self._rows[split].numel())

    def count(self, split: SplitName, modality: str) -> int:
        """Rows of a split that carry this modality; 0 for one that is not read here."""
        return int(self._those(split, modality).numel())

    def distinct(self, split: SplitName, modality: str | None = None) -> int:
        """Different patients behind the rows of a split, or behind those with the modality."""
        return different(self.owners[self._those(split, modality)])

    def people(self, split: SplitName, modality: str | None = None) -> Tensor:
        """Different patients by class (C,), or by side of each label (L, 2)."""
        rows = self._those(split, modality)
        return people_of(self.all_labels[rows], self.owners[rows], self.study.task)

    def owners_of(self, split: SplitName) -> Tensor:
        """Number of the patient of each row of a split, in its fixed order; (n,) int64."""
        return self.owners[self._rows[split]]

    def _those(self, split: SplitName, modality: str | None) -> Tensor:
        """Rows of a split, or of those that carry a modality; none of one that is not read."""
        rows = self._rows[split]
        if modality is None:
            return rows
        there = self._present.get(modality)
        return rows[:0] if there is None else rows[there[rows]]

    def labels(self, split: SplitName) -> Tensor:
        """Labels of a split in its fixed order; (n,) int64 or (n, L) float32."""
        return self.all_labels[self._rows[split]]

    def batches(
        self, split: SplitName, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Batches of a split: shuffled by ``generator``, or in fixed order when it is None.

        A last batch of a single patient joins the one before it, for layers that normalise
        over a batch. With a costly column a thread makes the next batches while one is used.
        In fixed order a batch is smaller than asked for where its inputs would be too large, and
        is one row where rows are scans.

        Raises:
            StudyError: a shuffled batch would be too large.
        """
        rows = self._rows[split]
        batch_size = self._bearable(min(batch_size, rows.numel()), generator is not None)
        order = torch.arange(rows.numel())
        if generator is not None:
            order = torch.randperm(rows.numel(), generator=generator)
        if not rows.numel():
            return
        starts = list(range(0, rows.numel(), batch_size))
        if len(starts) > 1 and rows.numel() - starts[-1] == 1 and self.together is None:
            starts.pop()
        ends = [*starts[1:], rows.numel()]
        parts = [order[start:end] for start, end in zip(starts, ends, strict=True)]
        costly = any(getattr(c, "costly", False) for c in self.columns.values())
        if costly or self.together is not None:
            jobs = zip(parts, _one_each(generator, len(parts)), strict=True)
            yield from ahead(lambda job: self._batch(rows, *job), jobs)
            return
        for part in parts:
            yield self._batch(rows, part, generator)

    def _bearable(self, batch_size: int, learnt: bool) -> int:
        """Rows of a batch; fewer than asked for where it is only looked at.

        Raises:
            StudyError: a batch to learn from, whose rows are the job's to choose, is too large.
        """
        if self.together is not None and not learnt:
            return 1  # stacks differ in size
        read = [*self.columns.values(), *([self.together] if self.together is not None else [])]
        row = sum(getattr(c, "row_bytes", 0) for c in read)
        if learnt and batch_size * row > MOST_LEARNT:
            raise StudyError(
                expected=f"batches of at most {MOST_LEARNT >> 30} GiB of inputs",
                got="larger ones",
                remedy="lower batch_size, max_instances of a modality, or a recipe's size or crops",
            )
        return max(1, batch_size if learnt else min(batch_size, MOST_SHOWN // max(1, row)))

    def _batch(self, rows: Tensor, places: Tensor, generator: torch.Generator | None) -> Batch:
        """The batch of these places among the rows of a split."""
        rows = rows.index_select(0, places)
        present = {m: there.index_select(0, rows) for m, there in self._present.items()}
        if self.together is not None:
            inputs, fields, labels, which = self.together.collate(rows, present, generator)
            present = {m: there.index_select(0, which) for m, there in present.items()}
            return Batch(inputs, fields, present, labels, places.index_select(0, which))
        inputs, fields = {}, {}
        for name, column in self.columns.items():
            inputs[name], fields[name] = column.collate(rows, generator)
        return Batch(inputs, fields, present, self.all_labels.index_select(0, rows))

    def restricted(self, modalities: Sequence[str]) -> "Selection":
        """The same patients with only these of their modalities."""
        kept = {m: c for m, c in self.columns.items() if m in set(modalities)}
        return replace(self, columns=kept)

    def with_columns(self, columns: Mapping[str, Column]) -> "Selection":
        """The same rows in every split with other columns, though a row may then carry none."""
        other = replace(self, columns=columns)
        object.__setattr__(other, "_rows", self._rows)
        return other


def _one_each(generator: torch.Generator | None, count: int) -> Sequence[torch.Generator | None]:
    """A generator for each batch, all seeded at once: what a batch draws then does not depend on
    how far ahead it is made, nor on what the consumer draws meanwhile."""
    if generator is None:
        return [None] * count
    seeds = torch.randint(1 << 62, (count,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def union(parts: Sequence[Selection], modalities: Sequence[str], site: str) -> Selection:
    """The patients of several sites as one, each row standardised as at its own site.

    Patients of different sites are different patients.

    Raises:
        StudyError: no part, or parts of different studies.
    """
    studies = {p.study.fingerprint() for p in parts}
    if len(studies) != 1:
        raise StudyError(
            expected="patients opened for one study",
            got=f"{len(studies)} studies",
            remedy="open every site with the same study.json",
        )
    study = parts[0].study
    columns: dict[str, Column] = {}
    for name in sorted(set(modalities) & set(study.modalities)):
        modality = study.modalities[name]
        reader = kind_reader("scan" if study.task.segments else modality.kind)
        columns[name] = reader.join(
            [p.columns.get(name) or reader.absent(len(p.assigned), modality) for p in parts]
        )
    labels = torch.cat([p.all_labels for p in parts])
    assigned = [s for p in parts for s in p.assigned]
    owners, taken = [], 0
    for part in parts:
        owners.append(part.owners + taken)
        taken += len(part.assigned)
    least = max(p.minimum_cell for p in parts)
    first, *rest = (p.together for p in parts)
    together = None if first is None else first.below(rest)
    return Selection(site, study, columns, labels, assigned, least, torch.cat(owners), together)
