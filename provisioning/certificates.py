"""FLARE's certificates with 3072-bit keys, and a lifetime that the description chooses."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from nvflare.lighter.constants import ParticipantType, PropKey
from nvflare.lighter.ctx import ProvisionContext
from nvflare.lighter.entity import Participant
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.utils import serialize_cert, serialize_pri_key

from consortium import Validity
from polyclinic.errors import SiteError

KEY_BITS = 3072
REQUEST = "request"


class Certificates(CertBuilder):
    """FLARE's builder, which fixes 2048 bits and 360 days, with both made a choice."""

    def __init__(self, validity: Validity) -> None:
        super().__init__(root_valid_days=validity.root_days)
        self.kit_days = validity.kit_days

    def _build_root(self, subject: str, subject_org: str | None) -> None:
        if self.persistent_state.is_available:
            return
        self.pri_key = _new_key()
        self.pub_key = self.pri_key.public_key()
        self.issuer = subject
        self.root_cert = self._generate_cert(
            subject,
            subject_org,
            subject,
            self.pri_key,
            self.pub_key,
            valid_days=self.root_valid_days,
            ca=True,
        )
        self.serialized_cert = serialize_cert(self.root_cert)
        self.persistent_state.set_root_cert(self.serialized_cert.decode("ascii"))
        self.persistent_state.set_root_pri_key(serialize_pri_key(self.pri_key).decode("ascii"))

    def _build_write_cert_pair(
        self, participant: Participant, base_name: str, ctx: ProvisionContext
    ) -> None:
        """Certify the key that a participant made itself, or make one as FLARE does."""
        request = participant.get_prop(REQUEST)
        if not request:
            super()._build_write_cert_pair(participant, base_name, ctx)
            return
        public = requested_key(Path(request), participant.name)
        startup = Path(ctx.get_kit_dir(participant))
        certificate = self._certify(participant, public)
        (startup / f"{base_name}.crt").write_bytes(serialize_cert(certificate))
        (startup / "rootCA.pem").write_bytes(self.serialized_cert)

    def get_pri_key_cert(self, participant: Participant) -> tuple[rsa.RSAPrivateKey, Any]:
        """A new key and its certificate."""
        key = _new_key()
        return key, self._certify(participant, key.public_key())

    def _certify(self, participant: Participant, public: Any) -> Any:
        """A certificate that never outlives the root's."""
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=self.kit_days)
        is_admin = participant.type == ParticipantType.ADMIN
        return self._generate_cert(
            participant.subject,
            participant.org,
            self.issuer,
            self.pri_key,
            public,
            role=participant.get_prop(PropKey.ROLE) if is_admin else None,
            server=participant if participant.type == ParticipantType.SERVER else None,
            not_valid_before=now,
            not_valid_after=min(ends, self.root_cert.not_valid_after_utc),
        )


def forget(state: Path, names: Sequence[str]) -> None:
    """Drop participants from FLARE's provisioning state, so that their keys are made anew.

    Raises:
        SiteError: a name that was never provisioned here.
    """
    if not names:
        return
    known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    strangers = sorted(n for n in names if n not in known)
    if strangers:
        raise SiteError(
            expected="participants that were provisioned before",
            got=", ".join(strangers),
            remedy="name them as the description does, with the same output folder",
            owner="consortium engineer",
        )
    left = {name: entry for name, entry in known.items() if name not in names}
    state.write_text(json.dumps(left), encoding="utf-8")


def requested_key(path: Path, name: str) -> Any:
    """The public key of a signing request, proven to be of its sender and of that name.

    Raises:
        SiteError: no request, a broken one, one of somebody else, or too short a key.
    """
    try:
        request = x509.load_pem_x509_csr(path.read_bytes())
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = request.public_key()
        strong = isinstance(key, ec.EllipticCurvePublicKey) or (
            isinstance(key, rsa.RSAPublicKey) and key.key_size >= KEY_BITS
        )
        sound = request.is_signature_valid and strong and [n.value for n in names] == [name]
        got = "" if sound else "one with another name, a broken signature or a short key"
    except (OSError, ValueError) as error:
        got = type(error).__name__
    if got:
        raise SiteError(
            expected=f"a signing request of '{name}' with RSA {KEY_BITS} or an elliptic curve",
            got=got,
            remedy="ask its sender for a new one, as docs/provisioning.md says",
            owner="consortium engineer",
        )
    return key


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
