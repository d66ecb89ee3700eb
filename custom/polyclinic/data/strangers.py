"""Whose the rows and files are that belong to no patient of the cohort, in counts."""

from collections import Counter
from dataclasses import dataclass, field

from polyclinic.data.identity import twin_key
from polyclinic.data.manifest import Manifest


@dataclass
class Strangers:
    """Rows or files of one modality that a reader could give to no patient.

    Attributes:
        rows: by id; never printed nor sent.
    """

    manifest: Manifest = field(repr=False)
    rows: Counter[str] = field(default_factory=Counter, repr=False)

    def add(self, pseudonym: str) -> None:
        """Count a row or file of this id."""
        self.rows[pseudonym] += 1

    @property
    def aside(self) -> int:
        """Rows or files of patients that the manifest has, in a row that was set aside."""
        return sum(n for i, n in self.rows.items() if i in self.manifest.aside)

    @property
    def outside(self) -> int:
        """Rows or files of patients that no row of the manifest has."""
        return self.rows.total() - self.aside

    @property
    def alike(self) -> int:
        """Ids that differ from one of the manifest only in case, or as numbers in their writing."""
        known = {twin_key(p.key) for p in self.manifest.patients}
        known |= {twin_key(i) for i in self.manifest.aside}
        return sum(i not in self.manifest.aside and twin_key(i) in known for i in self.rows)

    @property
    def told(self) -> tuple[str, ...]:
        """What a person should know of them, without an id."""
        told = []
        if self.outside:
            told.append(f"{self.outside} row(s) or file(s) of patients outside the manifest")
        if alike := self.alike:
            told.append(
                f"{alike} of their ids would match one of the manifest's if case and leading "
                "zeros did not count"
            )
        if self.aside:
            told.append(
                f"{self.aside} row(s) or file(s) of patients whose row of the manifest was set "
                "aside (see quarantine)"
            )
        return tuple(told)

    @property
    def remedy(self) -> str:
        """What to do about them; "" where there is nothing to compare."""
        if self.alike:
            return "write the ids as the manifest writes them"
        if self.outside:
            return "check the ids against the manifest's"
        return "mend the manifest's rows" if self.aside else ""
