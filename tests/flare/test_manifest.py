"""A11: whatever is changed, added or removed in a kit shows; only the root key can sign."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from polyclinic.flare.manifest import NAME, manifest_faults, write_manifest


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def root() -> tuple[rsa.RSAPrivateKey, bytes]:
    key, now = new_key(), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return key, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def kit(tmp_path: Path, root: tuple[rsa.RSAPrivateKey, bytes]) -> Path:
    for name, content in (
        ("startup/rootCA.pem", root[1].decode()),
        ("startup/fed_client.json", "{}"),
        ("startup/client.key", "secret"),
        ("local/resources.json", "{}"),
        ("local/polyclinic.yaml", "site: a"),
    ):
        path = tmp_path / "site-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    write_manifest(tmp_path / "site-1", root[0])
    return tmp_path / "site-1"


def test_a_kit_as_signed_has_no_fault(kit: Path) -> None:
    assert manifest_faults(kit) == []


def test_the_hospitals_own_settings_and_its_key_are_not_the_manifests_business(kit: Path) -> None:
    (kit / "local" / "polyclinic.yaml").write_text("site: b")
    (kit / "local" / "anchor.yaml").write_text("anchor: b")
    (kit / "local" / "weights.yaml").write_text("weights: {}")
    (kit / "startup" / "client.key").write_text("renewed")
    assert manifest_faults(kit) == []


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda k: (k / "local/resources.json").write_text("[]"), "resources.json was changed"),
        (lambda k: (k / "startup/fed_client.json").unlink(), "fed_client.json was removed"),
        (lambda k: (k / "local/privacy.json").write_text("{}"), "local/privacy.json was added"),
        (lambda k: (k / "startup/x__resources.json").write_text("{}"), "x__resources.json was add"),
        (lambda k: (k / "startup" / NAME).unlink(), f"{NAME} is missing"),
        (lambda k: (k / "startup" / NAME).write_text("no"), "cannot be read"),
        (lambda k: (k / "startup" / "rootCA.pem").unlink(), "rootCA.pem is missing"),
    ],
)
def test_a11_every_change_shows(kit: Path, spoil: Callable[[Path], object], fault: str) -> None:
    spoil(kit)
    found = manifest_faults(kit)
    assert len(found) == 1
    assert fault in found[0]


def test_a11_code_below_local_shows(kit: Path) -> None:
    (kit / "local" / "custom").mkdir()
    (kit / "local" / "custom" / "mine.py").write_text("x = 1")
    assert manifest_faults(kit) == ["local/custom/mine.py was added"]


def test_a11_a_link_in_place_of_a_file_shows(kit: Path, tmp_path: Path) -> None:
    path = kit / "local" / "resources.json"
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(path.read_text())
    path.unlink()
    path.symlink_to(elsewhere)
    assert manifest_faults(kit) == ["local/resources.json was changed"]


def test_a11_nobody_but_the_root_signs(kit: Path) -> None:
    (kit / "local" / "resources.json").write_text("[]")
    write_manifest(kit, new_key())
    assert manifest_faults(kit) == ["the manifest's signature is not the consortium's"]


def test_a11_the_list_cannot_be_edited_under_its_signature(kit: Path) -> None:
    path = kit / "startup" / NAME
    listed = json.loads(path.read_text())
    path.write_text(json.dumps(listed | {"files": {}}))
    assert manifest_faults(kit) == ["the manifest's signature is not the consortium's"]


def test_a11_the_manifest_of_another_kit_does_not_fit(
    kit: Path, root: tuple[rsa.RSAPrivateKey, bytes], tmp_path: Path
) -> None:
    listed = json.loads((kit / "startup" / NAME).read_text())
    kit.rename(tmp_path / "site-2")
    write_manifest(tmp_path / "site-2", root[0])
    other = json.loads((tmp_path / "site-2" / "startup" / NAME).read_text())
    assert (listed["kit"], other["kit"]) == ("site-1", "site-2")
    assert listed["signature"] != other["signature"]
