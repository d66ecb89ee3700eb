"""What a job asks of a run, and the stages that a run can have."""

from dataclasses import dataclass

from polyclinic.flare.convert import CENSUS, EVALUATE, FINALISE, TRAIN

STAGES = (TRAIN, FINALISE, EVALUATE)


@dataclass(frozen=True)
class Terms:
    """What the job asks for.

    Attributes:
        run: id of the run.
        rounds: number of the last round.
        min_sites: fewest good answers for a round to count.
        round_deadline: seconds a round may take, and the anchor step after it.
        fetch_deadline: seconds in which a site must fetch its task, or it is not waited for.
        census_deadline: seconds for the census.
        stages: which of ``STAGES`` are run.
        most_patients: largest number of patients a site may announce.
    """

    run: str
    rounds: int
    min_sites: int
    round_deadline: float
    fetch_deadline: float
    census_deadline: float
    stages: tuple[str, ...]
    most_patients: int

    def deadline(self, task: str) -> float:
        """Seconds in which a question is answered."""
        return self.census_deadline if task == CENSUS else self.round_deadline
