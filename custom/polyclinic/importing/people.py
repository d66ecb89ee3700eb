"""Whose is what: pseudonyms of the ids that an import meets, and ids that may be one person's."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.data.identity import as_id, twin_key
from polyclinic.importing.pseudonym import keyed, pseudonym
from polyclinic.storage import write_atomic


@dataclass
class People:
    """The patients of one import.

    Attributes:
        fold: ids that differ only in case or leading zeros are one patient's.
        links: by pseudonym the id it stands for; in memory, and in a file only if asked.
        twins: by pseudonym a hash that ids share which differ only so.
    """

    key: bytes = field(repr=False)
    fold: bool = False
    links: dict[str, str] = field(default_factory=dict, repr=False)
    twins: dict[str, str] = field(default_factory=dict, repr=False)

    def named(self, original: object) -> str:
        """The pseudonym of a patient id; "" of a blank one."""
        known = as_id(original)
        if not known:
            return ""
        name = pseudonym(self.key, twin_key(known) if self.fold else known)
        self.links.setdefault(name, known)
        self.twins[name] = keyed(self.key, "twin", twin_key(known))
        return name

    def record(self, patient: str, original: object) -> str:
        """The pseudonym of one record (film, visit) of a patient; "" of a blank one."""
        known = as_id(original)
        return f"r{keyed(self.key, 'record', f'{patient}/{known}')}" if known else ""

    @property
    def twin_count(self) -> int:
        """Pseudonyms beyond the first of ids that look like one person's."""
        return len(self.twins) - len(set(self.twins.values()))

    def write_links(self, path: Path) -> None:
        """Add the ids of this import to the link table, for its owner only."""
        links = dict(self.links)
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as stream:
                links = {row[0]: row[1] for row in csv.reader(stream)} | links
        links.pop("pseudonym", None)
        text = io.StringIO(newline="")
        csv.writer(text).writerows([("pseudonym", "original"), *sorted(links.items())])
        write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
