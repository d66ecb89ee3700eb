"""FLARE's certificates with 3072-bit keys, and a lifetime that the description chooses."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from nvflare.lighter.constants import ParticipantType, PropKey
from nvflare.lighter.entity import Participant
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.utils import serialize_cert, serialize_pri_key

from consortium import Validity
from polyclinic.errors import SiteError

KEY_BITS = 3072


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

    def get_pri_key_cert(self, participant: Participant) -> tuple[rsa.RSAPrivateKey, Any]:
        """A new key and its certificate, which never outlives the root's."""
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=self.kit_days)
        key = _new_key()
        is_admin = participant.type == ParticipantType.ADMIN
        cert = self._generate_cert(
            participant.subject,
            participant.org,
            self.issuer,
            self.pri_key,
            key.public_key(),
            role=participant.get_prop(PropKey.ROLE) if is_admin else None,
            server=participant if participant.type == ParticipantType.SERVER else None,
            not_valid_before=now,
            not_valid_after=min(ends, self.root_cert.not_valid_after_utc),
        )
        return key, cert


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


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
