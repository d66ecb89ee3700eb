"""Methods by name: the algorithms of this package with the settings they are compared under."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from polyclinic.algorithms import fedavg, fedmm, local, multi_fedavg
from polyclinic.algorithms.base import Client, Server
from polyclinic.study import Kind, Study

Pool = Literal["", "all", "held"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An algorithm with its settings.

    Attributes:
        summary: one line for people.
        client, server: the two halves' classes.
        client_args, server_args: what differs from their defaults.
        pool: not a federation but one model per site on pooled training patients: ``all`` of
            every site, with the site's modalities read even where a site plays at lacking them;
            ``held`` only as far as sites hold them.
        embedding: D, when it differs from the study's.
        encoders: encoder settings by kind, when they differ from the study's.
    """

    summary: str
    client: Callable[..., Client]
    server: Callable[..., Server]
    client_args: Mapping[str, Any] = field(default_factory=dict)
    server_args: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = ""
    embedding: int = 0
    encoders: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)

    def halves(self) -> tuple[Client, Server]:
        """A fresh client and server."""
        return self.client(**self.client_args), self.server(**self.server_args)

    def adapted(self, study: Study) -> Study:
        """The study with this method's embedding and encoders."""
        changes: dict[str, Any] = {"embedding": self.embedding} if self.embedding else {}
        if self.encoders:
            changes["modalities"] = {
                name: m.model_copy(update={"encoder": dict(self.encoders[m.kind])})
                if m.kind in self.encoders
                else m
                for name, m in study.modalities.items()
            }
        return study.model_copy(update=changes)


METHODS: dict[str, Method] = {
    "local": Method(
        summary="every site alone",
        client=local.Client,
        server=local.Server,
    ),
    "centralised": Method(
        summary="the site's modalities, training patients of all sites pooled",
        client=local.Client,
        server=local.Server,
        pool="all",
    ),
    "centralised_held": Method(
        summary="as centralised, with only what each site holds",
        client=local.Client,
        server=local.Server,
        pool="held",
    ),
    "multi_fedavg": Method(
        summary="one network everywhere, absent inputs zero",
        client=multi_fedavg.Client,
        server=multi_fedavg.Server,
    ),
    "fedavg": Method(
        summary="encoders averaged by modality, personal heads",
        client=fedavg.Client,
        server=fedavg.Server,
    ),
    "fedprox": Method(
        summary="as fedavg, with FedProx's term",
        client=fedavg.Client,
        server=fedavg.Server,
        client_args={"mu": 0.01},
    ),
    "fedmm": Method(
        summary="FedMM as published, with a LayerNorm on embeddings",
        client=fedmm.Client,
        server=fedmm.Server,
    ),
    "fedmm_no_prototypes": Method(
        summary="FedMM without prototypes",
        client=fedmm.Client,
        server=fedmm.Server,
        client_args={"prototypes": False},
    ),
}
