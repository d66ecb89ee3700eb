"""Startup kits for a consortium: FLARE's own provisioning, then the policy of polyclinic over it.

    provisioning/make_kits.sh consortium.yaml OUT [--renew NAME...] [--format json]

writes ``OUT/<consortium>/prod_NN/<participant>/`` and keeps the root key in
``OUT/<consortium>/state/``. Run again after adding a hospital: certificates that exist are kept.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nvflare.lighter.constants import CtxKey
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Participant, Project
from nvflare.lighter.impl.static_file import StaticFileBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner
from nvflare.lighter.spec import Builder

import harden
from certificates import Certificates, forget, requested_key
from consortium import Consortium, load_consortium
from polyclinic.cli import output
from polyclinic.errors import PolyclinicError, SiteError
from polyclinic.flare.manifest import write_manifest
from polyclinic.flare.policy import SCHEME


class PolicyBuilder(Builder):
    """Lays the policy over each finished kit, then signs it.

    FLARE finalises builders in reverse order: standing second, this one sees the files that all
    others wrote, and is done before the first one moves the kits to their place.
    """

    def __init__(self, consortium: Consortium) -> None:
        self.consortium = consortium

    def finalize(self, project: Project, ctx: ProvisionContext) -> None:
        """Harden and sign every kit; shut the folder that holds the root key."""
        everyone: list[Participant] = project.get_all_participants()
        for participant in everyone:
            kit = Path(ctx.get_ws_dir(participant))
            if participant.name == self.consortium.server.name:
                harden.harden_server(kit, self.consortium)
            elif hospital := harden.find_hospital(self.consortium, participant.name):
                harden.harden_site(kit, self.consortium, hospital)
            else:
                harden.harden_admin(kit, self.consortium, participant.name)
            write_manifest(kit, ctx[CtxKey.ROOT_PRI_KEY])
            harden.shut(kit)
        harden.shut(Path(ctx.get_state_dir()))


class _Quiet:
    """Keeps FLARE's progress lines out of the way; warnings and errors go to standard error."""

    def info(self, message: str) -> None:
        """Nothing."""

    def debug(self, message: str) -> None:
        """Nothing."""

    def warning(self, message: str) -> None:
        """One line."""
        print(f"warning: {message}", file=sys.stderr)

    def error(self, message: str) -> None:
        """One line."""
        print(f"error: {message}", file=sys.stderr)


def make_kits(consortium: Consortium, out: Path, renew: Sequence[str] = ()) -> Path:
    """The folder with one kit per participant.

    Args:
        renew: participants whose certificate and key are made anew.

    Raises:
        SiteError: a signing request is not as it must be, or FLARE's provisioning failed; its own
            lines are then on standard error.
    """
    # Before FLARE's provisioner runs, because it prints a stack where a sentence would do.
    for one in (*consortium.hospitals, *consortium.admins):
        if one.request:
            requested_key(Path(one.request), one.name)
    out.mkdir(parents=True, exist_ok=True)
    forget(out / consortium.name / "state" / "cert.json", renew)
    builders = [
        WorkspaceBuilder(template_file="master_template.yml"),
        PolicyBuilder(consortium),
        StaticFileBuilder(config_folder="config", scheme=SCHEME, require_signed_jobs=True),
        Certificates(consortium.validity),
    ]
    provisioner = Provisioner(str(out.resolve()), builders)
    ctx = provisioner.provision(prepare_project(consortium.project()), logger=_Quiet())
    made = ctx.get_result_location()
    if ctx.get(CtxKey.BUILD_ERROR) or not made:
        raise SiteError(
            expected="kits from FLARE's provisioning",
            got="an error, see above",
            remedy="mend the description, or clear the output folder of half-made kits",
            owner="consortium engineer",
        )
    return Path(made)


class _Arguments(argparse.ArgumentParser):
    """Wrong arguments are told like every other fault."""

    def error(self, message: str) -> NoReturn:
        """Never returns.

        Raises:
            SiteError: what argparse found.
        """
        raise SiteError(
            expected=" ".join(self.format_usage().removeprefix("usage: ").split()),
            got=f"wrong arguments ({message})",
            remedy="see make_kits.sh --help",
            owner="consortium engineer",
        )


def _arguments() -> argparse.ArgumentParser:
    parser = _Arguments(
        prog="make_kits.sh",
        description="Startup kits for a consortium; run again after adding a hospital.",
    )
    parser.add_argument("description", type=Path, help="the consortium, YAML")
    parser.add_argument("out", type=Path, help="where kits and the root key go")
    parser.add_argument("--renew", nargs="+", default=[], metavar="NAME", help="new certificates")
    parser.add_argument(
        "--format", choices=("txt", "json"), default="txt", help="txt for people, json for programs"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """0 when the kits were made, 4 when arguments, description or the output folder are wrong."""
    os.umask(0o077)
    started = time.monotonic()
    try:
        asked = _arguments().parse_args(argv)
        described = load_consortium(asked.description)
        made = make_kits(described, asked.out, asked.renew)
    except PolyclinicError as error:
        output.refuse(error, output.asked_format(["make_kits.sh", *argv]))
        return output.BAD_INPUT
    data = {
        "kits": str(made),
        "participants": sorted(p.name for p in made.iterdir()),
        "seconds": round(time.monotonic() - started, 1),
    }
    output.emit(data, text=lambda: _show(described, made), format=asked.format)
    return output.OK


def _show(consortium: Consortium, made: Path) -> None:
    server = consortium.server
    rows = [(server.name, f"server, {server.host}:{server.port}", server.organisation)]
    rows += [
        (h.name, f"hospital, {', '.join(h.modalities)}", h.organisation)
        for h in consortium.hospitals
    ]
    rows += [(a.name, a.role, a.organisation) for a in consortium.admins]
    output.table(f"kits of {consortium.name}", ("kit", "role", "organisation"), rows)
    for place, what in ((made, "kits"), (made.parent / "state", "root key, to be locked away")):
        output.screen.print(f"{what}: {place}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
