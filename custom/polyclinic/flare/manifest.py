"""A kit's files, listed by SHA-256 and signed with the consortium's root key.

FLARE signs a kit only with homomorphic encryption or confidential computing. This manifest closes
that gap: whoever can change a file of a kit cannot make its signature. Private keys are not
listed (they are checked against their certificate), nor are the files in which a hospital or the
server states facts of its own: they name no class.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

NAME = "polyclinic_manifest.json"
FOLDERS = ("startup", "local")
OWN_FILES = ("local/polyclinic.yaml", "local/weights.yaml", "local/anchor.yaml")
_PADDING = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)


def list_files(kit: Path) -> dict[str, str]:
    """SHA-256 by path of every file the manifest speaks for; links are listed, not followed."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for root, _, names in os.walk(kit / folder):
            for name in names:
                path = Path(root) / name
                key = path.relative_to(kit).as_posix()
                if key in OWN_FILES or path.suffix == ".key" or name == NAME:
                    continue
                found[key] = "link" if path.is_symlink() else _sha256(path)
    return dict(sorted(found.items()))


def write_manifest(kit: Path, key: rsa.RSAPrivateKey) -> None:
    """Sign the kit as it lies, into ``startup/``."""
    listed = {"version": 1, "kit": kit.name, "files": list_files(kit)}
    signature = key.sign(_canonical(listed), _PADDING, hashes.SHA256())
    signed = {**listed, "signature": base64.b64encode(signature).decode()}
    (kit / "startup" / NAME).write_text(json.dumps(signed, indent=1) + "\n", encoding="utf-8")


def manifest_faults(kit: Path) -> list[str]:
    """What differs from the signed manifest, one short phrase each; empty for a kit as signed."""
    try:
        signed = json.loads((kit / "startup" / NAME).read_text(encoding="utf-8"))
        root = x509.load_pem_x509_certificate((kit / "startup" / "rootCA.pem").read_bytes())
        signature = base64.b64decode(signed.pop("signature"))
        listed = dict(signed["files"])
    except FileNotFoundError as error:
        return [f"{Path(error.filename).name} is missing"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["the manifest cannot be read"]
    key = root.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return ["the root certificate holds no RSA key"]
    try:
        key.verify(signature, _canonical(signed), _PADDING, hashes.SHA256())
    except InvalidSignature:
        return ["the manifest's signature is not the consortium's"]
    there = list_files(kit)
    return [
        *(f"{name} was removed" for name in listed if name not in there),
        *(f"{name} was added" for name in there if name not in listed),
        *(f"{name} was changed" for name in there if listed.get(name, there[name]) != there[name]),
    ]


def _canonical(listed: dict[str, Any]) -> bytes:
    return json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
