"""An algorithm with its settings, as methods are compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from polyclinic.algorithms.base import Client, Server
from polyclinic.study import Kind, Study

Pool = Literal["", "own", "all", "held"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """An algorithm with its settings.

    Attributes:
        summary: one line for people.
        client, server: the two halves' classes.
        client_args, server_args: what differs from their defaults.
        pool: not a federation but one model per site: on its ``own`` training patients, or on
            those of ``all`` sites pooled, with the site's modalities read even where a site plays
            at lacking them; ``held`` only as far as sites hold them.
        embedding: D, when it differs from the study's.
        encoders: encoder settings by kind, when they differ from the study's.
        most_rounds: more rounds than this overtrain it; 0 takes as many as asked for.
    """

    summary: str
    client: Callable[..., Client]
    server: Callable[..., Server]
    client_args: Mapping[str, Any] = field(default_factory=dict)
    server_args: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = ""
    embedding: int = 0
    encoders: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)
    most_rounds: int = 0

    def halves(self) -> tuple[Client, Server]:
        """A fresh client and server."""
        return self.client(**self.client_args), self.server(**self.server_args)

    def rounds(self, asked: int) -> int:
        """Rounds this method trains when ``asked`` are wanted."""
        return min(asked, self.most_rounds) if self.most_rounds else asked

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
