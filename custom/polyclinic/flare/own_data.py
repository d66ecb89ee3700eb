"""The anchor step on the server's own data, where a job asks for that; off by default.

The server's ``local/polyclinic.yaml`` then declares the study's cohort like a hospital's, with
``anchor: true``. Data are read and trained on in a process of their own, as at a hospital; what
that process answers passes the same guard as a site's answer.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DataKind

from polyclinic.errors import PolyclinicError, SiteError, StudyError
from polyclinic.exchange import State, Update
from polyclinic.flare.census import Announcement, read_census
from polyclinic.flare.child import TrainingProcess
from polyclinic.flare.convert import ANCHOR, CENSUS, Reply
from polyclinic.flare.guard import UpdateGuard
from polyclinic.flare.personal import PersonalStore
from polyclinic.flare.tally import by_group
from polyclinic.ledger import Record
from polyclinic.settings import SiteSettings
from polyclinic.study import Study
from polyclinic.worker.frame import Message, joined


class StepFailed(SiteError):
    """The server's training process answered with an error, whose text stayed in its storage."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            expected="a training step on the server's own data",
            got=f"an error of kind '{reason}'",
            remedy="see worker.log and incidents/ in the server's storage",
        )
        self.reason = reason


class OwnData:
    """The server as its own anchor site.

    Args:
        settings: from the server's ``local/polyclinic.yaml``.
        client: ``{"path", "args"}`` of the client half.
        run: under which the step's memory is kept in the server's storage.
        deadline: seconds a step may take.
        aborted: whether FLARE has stopped the job.
    """

    def __init__(
        self,
        settings: SiteSettings,
        study: Study,
        client: dict[str, Any],
        guard: UpdateGuard,
        run: str,
        deadline: float,
        aborted: Callable[[], bool],
    ) -> None:
        self.site = settings.site
        self._study, self._guard = study, guard
        self._deadline, self._aborted = deadline, aborted
        self._process = TrainingProcess(settings, study, client)
        origin = {"study": study.fingerprint(), "client": str(client["path"])}
        self._store = PersonalStore(Path(settings.storage), run, origin)
        self._said: Announcement | None = None

    def train(self, state: State) -> tuple[Update | None, Record]:
        """See ``polyclinic.flare.anchor_step.Trainer``."""
        try:
            said = self._announced()
            self._store.claim()
            head = {"do": ANCHOR, "round": state.round, "t": state.round}
            kept = self._store.load(state.round)
            request = Message(head, joined(state=state.tensors, personal=kept))
            answer = self._ask(request, self._deadline)
            scalars, metrics = answer.head["scalars"], answer.head["metrics"]
            kind, tensors = DataKind.WEIGHT_DIFF.value, answer.part("update")
            reply = Reply(kind, tensors, scalars, metrics)
            update = self._guard.check_anchor(reply, said.modalities, said.counts, state.round)
            self._store.save(answer.part("personal"), state.round)
        except PolyclinicError as error:
            return None, {"reason": getattr(error, "reason", error.code)}
        told = {"bytes_in": {self.site: by_group(update.tensors)}}
        return update, {**told, "metrics": {self.site: self._guard.check_metrics(reply)}}

    def require(self) -> None:
        """Pass when the server's data can do the step.

        Raises:
            PolyclinicError: they cannot be read, or do not have every modality.
        """
        said = self._announced()
        if not said.anchor:
            raise StudyError(
                expected="a cohort of every modality with 'anchor: true' in the server's "
                "local/polyclinic.yaml",
                got="one without",
                remedy="declare it, or let a site do the step (anchor: site)",
            )

    def end(self) -> None:
        """Stop the process and leave the run's memory to the next job."""
        self._process.end()
        self._store.release()

    def _announced(self) -> Announcement:
        if self._said is None:
            scalars = self._ask(Message({"do": CENSUS}), math.inf).head["scalars"]
            self._said = read_census(Reply(DataKind.METRICS.value, {}, scalars, {}), self._study)
        return self._said

    def _ask(self, request: Message, seconds: float) -> Message:
        answer = self._process.ask(request, self._aborted, seconds)
        if not answer.head["ok"]:
            raise StepFailed(answer.head["code"])
        return answer
