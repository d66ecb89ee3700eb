"""What one site may see of the state: the groups that its modalities hold, and no others.

Each site gets a task of its own, made by the controller for that authenticated client, instead of
one broadcast that a task-data filter cuts down per receiver. So a site cannot ask for another's
slice by naming itself differently, one failing slice cannot cancel the task of the others, and
FLARE does not keep a deep copy of the whole model for the length of the round.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from polyclinic.exchange import Contract, State


@dataclass(frozen=True)
class SliceForSite:
    """Cuts a state down for a site.

    Attributes:
        contract: says which modality holds which tensor.
        held: modalities by site, as announced in the census.
    """

    contract: Contract
    held: Mapping[str, tuple[str, ...]]

    def of(self, state: State, site: str) -> State:
        """A new state with the site's names only; its arrays are shared and read-only views.

        Raises:
            KeyError: the site announced nothing.
        """
        names = self.contract.names_for(self.held[site], "state")
        cut = state.restricted(sorted(names))
        views = {}
        for name, array in cut.tensors.items():
            views[name] = array.view()
            views[name].flags.writeable = False
        return State(views, state.round)
