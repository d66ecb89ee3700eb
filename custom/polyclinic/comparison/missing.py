"""How a model fares when patients lack a modality: the same test patients, more and more hidden.

Training sees the patients as they are; what is hidden is hidden from those who are scored, so that
a grid of rates costs no training.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.data.batch import Patients
from polyclinic.data.hidden import hide
from polyclinic.errors import StudyError
from polyclinic.study import Study


@dataclass(frozen=True)
class Missing:
    """What is hidden.

    Attributes:
        rates: shares of patients from whom the modality is hidden.
    """

    modality: str
    rates: tuple[float, ...]

    def name(self, test: str, rate: float) -> str:
        """Name of a test with this share hidden."""
        return f"{test}, {self.modality} {100 * rate:.10g} % missing"

    def grid(self, tests: Mapping[str, Patients], seed: int) -> dict[str, Patients]:
        """Every test at every rate, by name; the same seed hides the same patients."""
        return {
            self.name(test, rate): hide(patients, self.modality, rate, seed)
            for test, patients in tests.items()
            for rate in self.rates
        }


def parse_missing(text: str, study: Study) -> Missing:
    """``metadata:0,0.25,1`` as what it says.

    Raises:
        StudyError: no modality of the study, no rate, or one outside [0, 1].
    """
    modality, _, listed = text.partition(":")
    try:
        rates = tuple(dict.fromkeys(float(r) for r in listed.split(",")))
    except ValueError:
        rates = ()
    if modality not in study.modalities or not rates or not all(0 <= r <= 1 for r in rates):
        raise StudyError(
            expected="a modality of the study and rates in [0, 1], as in metadata:0,0.25,1",
            got=f"'{text}'",
            remedy=f"correct --missing; modalities are {', '.join(sorted(study.modalities))}",
        )
    return Missing(modality, rates)
