"""Local: every site trains alone; nothing crosses the wall. The floor federation must beat.

It is FedAvg's client (``polyclinic.algorithms.fedavg``) whose every tensor is personal: E epochs a
round, so that after T rounds a site has trained as long as it would in a federation.
"""

from dataclasses import dataclass, field

from torch import Tensor

from polyclinic.algorithms.base import Trained
from polyclinic.algorithms.heads import (
    HeadTraining,
    check_heads,
    heads_loss,
    task_losses,
    training_output,
)
from polyclinic.algorithms.site import (
    SiteTask,
    open_task,
    predictions,
    train_round,
    training_metrics,
    validation_scores,
)
from polyclinic.algorithms.wire import (
    Architecture,
    Desk,
    announced,
    check_architecture,
    head_settings,
)
from polyclinic.data.batch import Batch, Patients, SplitName
from polyclinic.exchange import Contract, State, Tensors, Update
from polyclinic.study import Study
from polyclinic.training import LocalTraining


@dataclass(frozen=True, kw_only=True)
class Client(HeadTraining, Architecture, LocalTraining):
    """A site's model, kept at the site whole."""

    def __post_init__(self) -> None:
        LocalTraining.__post_init__(self)
        check_architecture(self)
        check_heads(self, self.unimodal_heads)

    def contract(self, study: Study) -> Contract:
        """Nothing crosses the wall."""
        return Contract({})

    def train(self, patients: Patients, state: State, personal: Tensors, t: int) -> Trained:
        """E more epochs on the site's own model; the update is empty."""
        task = self._task(patients, state, personal)
        losses = task_losses(patients, self)

        def batch_loss(batch: Batch) -> Tensor:
            output = training_output(task.model, batch, self.modality_dropout)
            return heads_loss(output, batch.labels, losses, self)

        fitted, optimiser = train_round(task, patients, self, batch_loss, t)
        kept = task.personal(optimiser if self.keep_optimiser else None)
        found = predictions(task.model, patients, "validation", self.fusion)
        metrics = training_metrics(fitted) | validation_scores(found, patients)
        return Trained(Update({}, announced(patients)), kept, metrics)

    def finalise(self, patients: Patients, state: State, personal: Tensors) -> Trained:
        """The model as it is."""
        return Trained(Update({}), personal)

    def predict(
        self, patients: Patients, state: State, personal: Tensors, split: SplitName
    ) -> Tensors:
        """Class probabilities of a split."""
        task = self._task(patients, state, personal)
        return predictions(task.model, patients, split, self.fusion)

    def _task(self, patients: Patients, state: State, personal: Tensors) -> SiteTask:
        held = patients.modalities
        head = head_settings(self, held)
        return open_task(patients, held, head, lambda name: False, state, personal)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Counts rounds."""

    desk: Desk = field(default_factory=Desk, init=False, repr=False, compare=False)

    def contract(self, study: Study) -> Contract:
        """Nothing crosses the wall."""
        return Contract({})

    def initial(self, study: Study) -> State:
        """An empty state."""
        return State({})

    def begin(self, study: Study, state: State, t: int) -> None:
        """Open round ``t``."""
        self.desk.open(Contract({}), state, t)

    def accept(self, site: str, update: Update) -> None:
        """Hear that a site has trained; tensors are refused."""
        self.desk.round.accept(site, update, "uniform")

    def finish(self) -> State:
        """The empty state of the next round."""
        return self.desk.close(lambda opened: {})
