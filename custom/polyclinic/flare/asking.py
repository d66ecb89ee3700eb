"""Puts a run's questions to its sites: each gets what it may see, and has the task's deadline."""

from collections.abc import Iterable
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from polyclinic.exchange import State
from polyclinic.flare.convert import CENSUS, task_data
from polyclinic.flare.gathering import Attendance, Gathering
from polyclinic.flare.slice import SliceForSite
from polyclinic.flare.tally import Take, Tally, by_group, gather
from polyclinic.flare.terms import Terms
from polyclinic.ledger import Record


class Aborted(Exception):
    """FLARE asked the job to stop."""


class Asking:
    """The questions of one run.

    Args:
        controller: FLARE's controller, on whose behalf sites are asked.
        terms: of the job.
        fl_ctx: FLARE's.
        abort: FLARE's sign to stop.
        attendance: of the run's sites.
    """

    def __init__(
        self,
        controller: Controller,
        terms: Terms,
        fl_ctx: FLContext,
        abort: Signal,
        attendance: Attendance,
    ) -> None:
        self._controller, self._terms = controller, terms
        self._fl_ctx, self._abort, self._attendance = fl_ctx, abort, attendance

    def census(self, sites: Iterable[str], round_: int, take: Take) -> Tally:
        """Ask what sites hold.

        Raises:
            Aborted: FLARE stopped the job.
        """
        question = State({}, round_), self._head(CENSUS)
        return self._gathered(CENSUS, {s: task_data(*question) for s in sites}, take)

    def put(
        self,
        task: str,
        state: State,
        t: int,
        sites: Iterable[str],
        slices: SliceForSite,
        together: int,
        take: Take,
    ) -> tuple[Tally, Record]:
        """Ask about a state; also the bytes of tensors that were sent, by site and group.

        Args:
            together: how many sites train together: a site may refuse a mean of too few.

        Raises:
            Aborted: FLARE stopped the job.
        """
        questions, sent = {}, {}
        head = {**self._head(task), "t": t, "sites": together}
        for site in sites:
            cut = slices.of(state, site)
            questions[site] = task_data(cut, head)
            sent[site] = by_group(cut.tensors)
        return self._gathered(task, questions, take), sent

    def _head(self, task: str) -> dict[str, Any]:
        """The scalars of a task."""
        return {
            "stage": task,
            "run": self._terms.run,
            "rounds": self._terms.rounds,
            "deadline": self._terms.deadline(task),
        }

    def _gathered(self, task: str, questions: dict[str, Shareable], take: Take) -> Tally:
        """Ask, and hand every good answer to ``take`` as it comes."""
        gathering = Gathering(
            self._controller,
            task,
            questions,
            deadline_s=self._terms.deadline(task),
            fetch_s=self._terms.fetch_deadline,
            attendance=self._attendance,
        )
        tally = gather(gathering, take, self._fl_ctx, self._abort)
        if self._abort.triggered:
            raise Aborted
        return tally
