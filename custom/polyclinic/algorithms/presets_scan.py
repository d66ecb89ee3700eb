"""Ways of segmenting scans of which hospitals hold other sequences, under one budget of steps.

What they share is for twenty rounds. It was looked at in a handful of runs of ten on validation
patients of the low-grade glioma cohort, and not searched for; the published settings (a thousand
rounds, patience 10 after 30, steps of 2e-4) are those of the job ``fedmepd_brats2018``.
"""

from typing import Any

from polyclinic.algorithms import fedmepd
from polyclinic.algorithms.method import Method, Pool

SCAN_ROUNDS = 20
SHORT: dict[str, Any] = {
    "epochs": 2,
    "lr": 2e-3,
    "decay_rounds": SCAN_ROUNDS,
    "validate_every": 0,
}
SHORT_FILTERS: dict[str, Any] = {"patience": 1, "pretrain": 3}


def _scans(
    summary: str,
    *,
    both: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    pool: Pool = "",
) -> Method:
    """FedMEPD's halves with these settings."""
    agreed = both or {}
    return Method(
        summary=summary,
        client=fedmepd.Client,
        server=fedmepd.Server,
        client_args={**SHORT, **agreed, **(client or {})},
        server_args={**agreed, **(server or {})},
        pool=pool,
        most_rounds=SCAN_ROUNDS,
    )


def _fedmepd(summary: str, *, slots: int = 4, **client: Any) -> Method:
    """FedMEPD for few rounds."""
    return _scans(summary, both={"slots": slots}, client={**SHORT_FILTERS, **client})


def _fedavg(summary: str, *, zero_fill: bool = False) -> Method:
    """FedAvg without anchors; the anchor site is a site like others."""
    both = {"anchored": False, "decoder": "federated", "zero_fill": zero_fill}
    return _scans(summary, both=both, server={"weight": "n"})


ALONE: dict[str, Any] = {"anchored": False, "decoder": "personal", "encoder": "personal"}
SCANS: dict[str, Method] = {
    "scan_local": _scans("every site alone", both=ALONE, pool="own"),
    "scan_centralised": _scans(
        "the site's sequences, training patients of all sites pooled", both=ALONE, pool="all"
    ),
    "scan_fedavg_zero_filled": _fedavg(
        "one network everywhere, absent sequences zero", zero_fill=True
    ),
    "scan_fedavg_keyed": _fedavg("encoders averaged by sequence, one decoder"),
    "fedmema": _scans(
        "encoders by sequence, personal decoders, three anchors",
        both={"decoder": "personal", "slots": 3},
        client={"keep_optimiser": False},
    ),
    "fedmepd": _fedmepd("encoders by sequence, partly personal decoder, four anchors"),
    "fedmepd_one_anchor": _fedmepd("as fedmepd, one anchor a class", slots=1),
    "fedmepd_no_calibration": _fedmepd("as fedmepd, without calibration", calibrated=False),
    "fedmepd_patience_0": _fedmepd("as fedmepd, decoder personal from the start", patience=0),
    "fedmepd_patience_10": _fedmepd("as fedmepd, filters give up after ten rounds", patience=10),
}
