"""Checks on this machine: the versions, the start script, and the hospital's own settings."""

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from polyclinic import __version__
from polyclinic.flare.doctor.kit import Finding, Kit, failed
from polyclinic.settings import SiteSettings, load_settings

FLARE_SERIES = "2.9."


def versions(kit: Kit) -> Iterator[Finding]:
    """The wheel that the kit was made for, and the FLARE that it was tested with."""
    wanted = kit.facts.get("polyclinic")
    if wanted != __version__:
        yield failed(
            "versions",
            f"the kit was made for polyclinic {wanted}, installed is {__version__}",
            f"install polyclinic=={wanted}, or ask for a kit of {__version__}",
            "site IT",
        )
    try:
        flare = version("nvflare")
    except PackageNotFoundError:
        flare = "none"
    if not flare.startswith(FLARE_SERIES):
        yield failed(
            "versions",
            f"nvflare {flare} is installed, {FLARE_SERIES}x is needed",
            "install the pins of requirements.txt",
            "site IT",
        )


def start_script(kit: Kit) -> Iterator[Finding]:
    """The start script asks the doctor first, and keeps exception texts out of the logs."""
    for line, why in (
        ("polyclinic.flare.doctor", "does not ask the doctor before it starts"),
        ("export NVFLARE_SECURE_LOGGING=1", "does not switch secure logging on"),
        ('export TMPDIR="$WORKSPACE/tmp"', "leaves temporary files in a shared folder"),
    ):
        if line not in kit.start_script:
            yield failed(
                "start-script",
                f"startup/sub_start.sh {why}",
                "put back the file that came with the kit",
                "site IT",
            )


def settings(kit: Kit) -> Iterator[Finding]:
    """``polyclinic.yaml`` is valid, is this participant's, and its storage can be written."""
    own = _settings(kit)
    if own.site != kit.name:
        yield failed(
            "settings",
            f"polyclinic.yaml is of '{own.site}', the kit is of '{kit.name}'",
            "set 'site' to the name of the kit",
            "site IT",
        )
    nearest = next(p for p in (Path(own.storage), *Path(own.storage).parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        yield failed(
            "settings",
            "the storage folder cannot be written",
            "set 'storage' in polyclinic.yaml to a folder that this account may write",
            "site IT",
        )


def device(kit: Kit) -> Iterator[Finding]:
    """The device that training is to run on is in this machine."""
    own = _settings(kit)
    if own.device != "cpu":
        # Importing torch takes seconds, which a hospital without a GPU need not wait.
        from polyclinic.device import require_device

        require_device(own.device)
    yield from ()


def quorum(kit: Kit) -> Iterator[Finding]:
    """This hospital trains with no fewer others than the consortium agreed on."""
    own, agreed = _settings(kit).minimum_sites, int(kit.facts.get("minimum_sites", 1))
    if own < agreed:
        yield failed(
            "quorum",
            f"minimum_sites is {own}, the consortium agreed on {agreed}",
            f"set minimum_sites in polyclinic.yaml to {agreed} or more",
            "site IT",
        )


def _settings(kit: Kit) -> SiteSettings:
    return load_settings(kit.local / "polyclinic.yaml")
