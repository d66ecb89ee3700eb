"""The description of a consortium, checked as a whole before any key is made."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyclinic.description import read_description
from polyclinic.flare.policy import SCHEME
from polyclinic.study import Kind, Name

SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Organisation = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]
ClassPrefix = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\.?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Strict):
    """The coordinator.

    Attributes:
        host: the name or address that hospitals dial; it goes into the certificate.
        also_known_as: further names and addresses for the certificate.
        lost_after_seconds: a site silent for so long counts as lost.
        max_jobs: jobs that may run at once.
    """

    name: SiteName
    organisation: Organisation
    host: str = "localhost"
    also_known_as: tuple[str, ...] = ()
    port: int = Field(default=8002, ge=1, le=65535)
    scheme: str = SCHEME
    lost_after_seconds: int = Field(default=60, ge=15)
    max_jobs: int = Field(default=4, ge=1)


class Hospital(_Strict):
    """One hospital: what it holds, by cohort and modality; where it lies is the hospital's own.

    Attributes:
        request: a signing request (PEM, relative to the description) for a key that the hospital
            made itself; its kit then holds no key.
    """

    name: SiteName
    organisation: Organisation
    request: str = ""
    cohorts: dict[Name, dict[Name, Kind]] = Field(min_length=1)
    gpus: int = Field(default=0, ge=0)
    gpu_memory_gib: int = Field(default=0, ge=0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities of all cohorts, sorted."""
        return tuple(sorted({m for held in self.cohorts.values() for m in held}))


class Admin(_Strict):
    """One person who may log in; ``request`` as for a hospital."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$")]
    organisation: Organisation
    role: Literal["project_admin", "org_admin", "lead", "member"]
    request: str = ""


Keyed = TypeVar("Keyed", Hospital, Admin)


class Validity(_Strict):
    """How long certificates live, in days."""

    root_days: int = Field(default=3650, ge=1)
    kit_days: int = Field(default=360, ge=1)


class Consortium(_Strict):
    """The whole description.

    Attributes:
        minimum_sites: fewest hospitals that may train together, at the server and at every site.
        allow_classes: classes or prefixes (ending in a dot) beyond the two of polyclinic that a
            job may name; agreed by all, because it ends up in every signed kit.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
    server: Server
    hospitals: tuple[Hospital, ...] = Field(min_length=1)
    admins: tuple[Admin, ...] = Field(min_length=1)
    minimum_sites: int = Field(default=3, ge=1)
    validity: Validity = Validity()
    allow_classes: tuple[ClassPrefix, ...] = ()

    @model_validator(mode="after")
    def _hangs_together(self) -> "Consortium":
        if self.server.scheme != SCHEME:
            raise ValueError(
                f"scheme '{self.server.scheme}' is not offered: one idle connection blocks tcp for"
                f" every hospital, and mutual TLS is checked over {SCHEME} only; leave scheme out"
            )
        names = [self.server.name, *(h.name for h in self.hospitals)]
        names += [a.name for a in self.admins]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"names used more than once: {', '.join(twice)}")
        if self.minimum_sites > len(self.hospitals):
            raise ValueError(f"minimum_sites {self.minimum_sites} exceeds the hospitals listed")
        if not any(a.role in ("project_admin", "lead") for a in self.admins):
            raise ValueError("nobody may submit a job: name a lead or a project_admin")
        return self

    def project(self) -> dict[str, Any]:
        """The description in the words of FLARE's provisioning."""
        server = {
            "name": self.server.name,
            "type": "server",
            "org": self.server.organisation,
            "fed_learn_port": self.server.port,
            "default_host": self.server.host,
            "host_names": list(self.server.also_known_as),
        }
        sites = [
            {
                "name": h.name,
                "type": "client",
                "org": h.organisation,
                "allow_log_streaming": False,
                "request": h.request,
            }
            for h in self.hospitals
        ]
        people = [
            {
                "name": a.name,
                "type": "admin",
                "org": a.organisation,
                "role": a.role,
                "request": a.request,
            }
            for a in self.admins
        ]
        return {"api_version": 3, "name": self.name, "participants": [server, *sites, *people]}


def load_consortium(path: Path) -> Consortium:
    """The description in a YAML file.

    Raises:
        SiteError: unreadable, not YAML, or a field is wrong; the message names the field.
    """
    described = read_description(
        path, Consortium, what=f"the description '{path.name}'", owner="consortium engineer"
    )
    base = path.resolve().parent
    return described.model_copy(
        update={
            "hospitals": tuple(_found(h, base) for h in described.hospitals),
            "admins": tuple(_found(a, base) for a in described.admins),
        }
    )


def _found(one: Keyed, base: Path) -> Keyed:
    """The same participant with the full path of its signing request."""
    return one.model_copy(update={"request": str(base / one.request)}) if one.request else one
