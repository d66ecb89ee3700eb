"""Checks on certificates: FLARE says nothing when one of them is wrong, so this page does."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from polyclinic.errors import SiteError
from polyclinic.flare.doctor.kit import Finding, Kit, failed, warned

WARN_BEFORE = timedelta(days=30)
URGE_BEFORE = timedelta(days=7)
RSA_BITS = 3072


def load(path: Path) -> x509.Certificate:
    """A certificate.

    Raises:
        SiteError: missing or not a certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SiteError(
            expected=f"a certificate in startup/{path.name}",
            got=type(error).__name__,
            remedy="put back the file that came with the kit",
        ) from None


def issued_by_the_consortium(kit: Kit) -> Iterator[Finding]:
    """The certificate is signed by the root that the kit trusts."""
    own, root = load(kit.certificate), load(kit.startup / "rootCA.pem")
    for name, certificate in (("rootCA.pem", root), (kit.certificate.name, own)):
        try:
            certificate.verify_directly_issued_by(root)
        except (ValueError, TypeError, InvalidSignature):
            yield failed(
                "issued-by-the-consortium",
                f"{name} is not issued by this kit's rootCA.pem",
                "put back the certificates that came with the kit",
                "site IT",
            )


def named_as_the_kit(kit: Kit) -> Iterator[Finding]:
    """The certificate names this participant, and the kit's own facts do too."""
    names = load(kit.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    found = str(names[0].value) if names else ""
    for place, name in (("certificate", found), ("startup/polyclinic.json", kit.facts.get("name"))):
        if name != kit.name:
            yield failed(
                "named-as-the-kit",
                f"the kit starts as '{kit.name}', its {place} names '{name}'",
                "unpack the kit that was made for this participant",
                "site IT",
            )


def in_date(kit: Kit) -> Iterator[Finding]:
    """Certificates that are valid now; a warning from thirty days before the end."""
    for path in (kit.certificate, kit.startup / "rootCA.pem"):
        certificate = load(path)
        left = certificate.not_valid_after_utc - kit.now
        if certificate.not_valid_before_utc > kit.now:
            yield failed(
                "in-date", f"{path.name} is not valid yet", "set this machine's clock", "site IT"
            )
        elif left <= timedelta(0):
            yield failed(
                "in-date",
                f"{path.name} expired {(-left).days} day(s) ago",
                "ask the consortium engineer for a kit made with --renew",
                "site IT",
            )
        elif left < WARN_BEFORE:
            soon = "within a week" if left < URGE_BEFORE else f"in {left.days} days"
            yield warned(
                "in-date",
                f"{path.name} expires {soon}, and FLARE will not say so when it does",
                "ask the consortium engineer for a kit made with --renew",
                "site IT",
            )


def key_belongs(kit: Kit) -> Iterator[Finding]:
    """The private key is there, is the certificate's, and is long enough."""
    path = kit.certificate.with_suffix(".key")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SiteError(
            expected=f"a private key in startup/{path.name}",
            got=type(error).__name__,
            remedy="put your own key there if you made one, else the one that came with the kit",
        ) from None
    public = load(kit.certificate).public_key()
    if key.public_key() != public:
        yield failed(
            "key-belongs",
            f"{path.name} does not belong to {kit.certificate.name}",
            "put back the key that came with the kit",
            "site IT",
        )
    strong = isinstance(public, ec.EllipticCurvePublicKey) or (
        isinstance(public, rsa.RSAPublicKey) and public.key_size >= RSA_BITS
    )
    if not strong:
        yield warned(
            "key-belongs",
            f"the key is shorter than RSA {RSA_BITS} or ECDSA P-256",
            "renew it with provisioning/make_kits.sh",
        )
