"""A startup kit on disk, and what the doctor says about it."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from polyclinic.errors import SiteError
from polyclinic.flare.policy import KIT_FACTS

Role = Literal["site", "server", "admin"]
Status = Literal["ok", "warn", "fail"]

ENGINEER = "consortium engineer"
_CONFIGS: dict[Role, str] = {
    "site": "fed_client.json",
    "server": "fed_server.json",
    "admin": "fed_admin.json",
}
_UID = re.compile(r"\buid=(\S+)")


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        check: name of the check.
        status: ``fail`` keeps the kit from starting, ``warn`` does not.
        what: what is wrong, without paths of data and without secrets.
        remedy: the step that mends it, as an imperative.
        owner: whose job that is.
    """

    check: str
    status: Status
    what: str = ""
    remedy: str = ""
    owner: str = ""

    def sentence(self) -> str:
        """The finding in one sentence."""
        return f"{self.what}; {self.remedy} ({self.owner})." if self.what else "in order"


def failed(check: str, what: str, remedy: str, owner: str = ENGINEER) -> Finding:
    """A finding that keeps the kit from starting."""
    return Finding(check, "fail", what, remedy, owner)


def warned(check: str, what: str, remedy: str, owner: str = ENGINEER) -> Finding:
    """A finding that a person should read, and that stops nothing."""
    return Finding(check, "warn", what, remedy, owner)


@dataclass(frozen=True)
class Report:
    """All findings about one kit."""

    kit: str
    role: Role
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True when the kit may start."""
        return all(f.status != "fail" for f in self.findings)

    def data(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {
            "kit": self.kit,
            "role": self.role,
            "passed": self.passed,
            "findings": [asdict(f) for f in self.findings],
        }


class Kit:
    """A folder with ``startup/`` and ``local/``, read once per file.

    Raises:
        SiteError: the folder is not a startup kit.
    """

    def __init__(self, folder: Path, now: datetime) -> None:
        self.folder = folder.resolve()
        self.now = now
        self.startup = self.folder / "startup"
        self.local = self.folder / "local"
        roles = [role for role, name in _CONFIGS.items() if (self.startup / name).is_file()]
        if len(roles) != 1:
            raise SiteError(
                expected="a startup kit, a folder with startup/fed_client.json, fed_server.json"
                " or fed_admin.json",
                got=f"{len(roles)} of the three",
                remedy="name the folder that holds startup/ and local/",
            )
        self.role: Role = roles[0]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What provisioning wrote down about this kit, in ``startup/polyclinic.json``."""
        return self.read(self.startup / KIT_FACTS)

    @cached_property
    def name(self) -> str:
        """The participant's name: the one it starts under, else that of the folder."""
        if self.role == "admin":
            return str(self.config.get("admin", {}).get("username") or self.folder.name)
        if self.role == "server":
            servers = self.config.get("servers") or [{}]
            return str(servers[0].get("admin_server") or self.folder.name)
        found = _UID.search(self.start_script)
        return found[1] if found else self.folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """FLARE's startup configuration of this role."""
        return self.read(self.startup / _CONFIGS[self.role])

    @cached_property
    def resources(self) -> dict[str, Any]:
        """The site's ``resources.json``, found as FLARE finds it."""
        return self.policy("resources.json")

    @cached_property
    def start_script(self) -> str:
        """The script that starts the participant; empty when it is not there."""
        path = self.startup / "sub_start.sh"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    @property
    def certificate(self) -> Path:
        """The participant's own certificate; the key lies beside it."""
        return self.startup / ("server.crt" if self.role == "server" else "client.crt")

    def policy(self, name: str) -> dict[str, Any]:
        """A policy file of ``local/``, or its ``.default``, as FLARE chooses between them."""
        path = self.local / name
        return self.read(path if path.exists() else self.local / f"{name}.default")

    def components(self, name: str) -> dict[str, str]:
        """Class path by component id of a resource file in ``startup/``."""
        listed = self.read(self.startup / name).get("components", [])
        return {str(c.get("id")): str(c.get("path")) for c in listed}

    def read(self, path: Path) -> dict[str, Any]:
        """A JSON object.

        Raises:
            SiteError: missing, unreadable, not UTF-8, with a byte order mark, or not an object.
        """
        place = path.relative_to(self.folder).as_posix()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _unreadable(place, "no such file") from None
        except (OSError, ValueError) as error:
            raise _unreadable(place, type(error).__name__) from None
        if not isinstance(content, dict):
            raise _unreadable(place, type(content).__name__)
        return content


def _unreadable(place: str, got: str) -> SiteError:
    return SiteError(
        expected=f"a JSON object in {place}",
        got=got,
        remedy="put back the file that came with the kit",
    )
