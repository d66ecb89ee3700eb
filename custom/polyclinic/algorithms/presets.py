"""Methods by name: the algorithms of this package with the settings they are compared under."""

from typing import Any

from polyclinic.algorithms import cxr_metadata, fedavg, fedmm, local, multi_fedavg
from polyclinic.algorithms.method import Method as Method
from polyclinic.algorithms.method import Pool
from polyclinic.algorithms.presets_scan import SCANS

# The recommended preset, chosen on validation patients: a small network, few rounds (it overtrains
# otherwise), balanced classes, sites weighing alike, and federated linear heads whose mean
# predicts. The methods ending in _plus share what does not belong to federation; their numbers of
# epochs come from a few validation runs, the preset's from many.
SMALL: dict[str, Any] = {
    "embedding": 64,
    "encoders": {"vector": {"hidden": [64], "clip": 3.0}},
}
GENTLE: dict[str, Any] = {"epochs": 1, "class_balance": True, "head_hidden": 0}
LATE_FUSION: dict[str, Any] = {"unimodal_heads": True, "fusion": "unimodal"}

# What the ways of joining films and metadata share, so that they differ in that alone. Chosen on
# validation patients: small steps for metadata, which say little, and heads without hidden layer.
FILMS: dict[str, Any] = {
    "batch_size": 32,
    "lr": 1e-3,
    "metadata_lr": 1e-4,
    "class_balance": True,
}
FILM_ROUNDS = 20


def _films(
    summary: str,
    mode: str,
    joining: str = "gated",
    *,
    pool: Pool = "",
    anchor: str = "",
    metadata_lr: float = FILMS["metadata_lr"],
) -> Method:
    """A way of reading films with metadata."""
    how: dict[str, Any] = {"mode": mode, "joining": joining, "head_hidden": 0}
    how |= {"anchor": anchor} if anchor else {}
    return Method(
        summary=summary,
        client=cxr_metadata.Client,
        server=cxr_metadata.Server,
        client_args={**FILMS, "metadata_lr": metadata_lr, **how},
        server_args=how,
        pool=pool,
        most_rounds=FILM_ROUNDS,
    )


METHODS: dict[str, Method] = {
    "local": Method(
        summary="every site alone",
        client=local.Client,
        server=local.Server,
    ),
    "centralised": Method(
        summary="the site's modalities, training patients of all sites pooled",
        client=local.Client,
        server=local.Server,
        pool="all",
    ),
    "centralised_held": Method(
        summary="as centralised, with only what each site holds",
        client=local.Client,
        server=local.Server,
        pool="held",
    ),
    "multi_fedavg": Method(
        summary="one network everywhere, absent inputs zero",
        client=multi_fedavg.Client,
        server=multi_fedavg.Server,
    ),
    "fedavg": Method(
        summary="encoders averaged by modality, personal heads",
        client=fedavg.Client,
        server=fedavg.Server,
    ),
    "joint": Method(
        summary="as fedavg, with unimodal heads trained beside the joint one",
        client=fedavg.Client,
        server=fedavg.Server,
        client_args={"unimodal_heads": True},
        server_args={"unimodal_heads": True},
    ),
    "miles": Method(
        summary="as joint, with MILES setting the encoders' step sizes",
        client=fedavg.Client,
        server=fedavg.Server,
        client_args={"unimodal_heads": True, "balance": "miles"},
        server_args={"unimodal_heads": True},
    ),
    "fedprox": Method(
        summary="as fedavg, with FedProx's term",
        client=fedavg.Client,
        server=fedavg.Server,
        client_args={"mu": 0.01},
    ),
    "fedmm": Method(
        summary="FedMM as published, with a LayerNorm on embeddings",
        client=fedmm.Client,
        server=fedmm.Server,
    ),
    "fedmm_no_prototypes": Method(
        summary="FedMM without prototypes",
        client=fedmm.Client,
        server=fedmm.Server,
        client_args={"prototypes": False},
    ),
    "fedmm_plus": Method(
        summary="the recommended preset",
        client=fedmm.Client,
        server=fedmm.Server,
        client_args={
            **GENTLE,
            "epochs": 3,
            **LATE_FUSION,
            "prototypes": False,
            "final_head": "keep",
        },
        server_args={"head_hidden": 0, "unimodal_heads": True, "weight": "uniform"},
        most_rounds=7,
        **SMALL,
    ),
    "fedmm_plus_prototypes": Method(
        summary="the recommended preset with prototypes",
        client=fedmm.Client,
        server=fedmm.Server,
        client_args={**GENTLE, "epochs": 3, **LATE_FUSION, "final_head": "keep"},
        server_args={"head_hidden": 0, "unimodal_heads": True, "weight": "uniform"},
        most_rounds=7,
        **SMALL,
    ),
    "local_plus": Method(
        summary="local with the preset's network and training",
        client=local.Client,
        server=local.Server,
        client_args={**GENTLE, **LATE_FUSION},
        most_rounds=20,
        **SMALL,
    ),
    "multi_fedavg_plus": Method(
        summary="Multi-FedAvg with the preset's network and training",
        client=multi_fedavg.Client,
        server=multi_fedavg.Server,
        client_args=GENTLE,
        server_args={"head_hidden": 0},
        most_rounds=20,
        **SMALL,
    ),
    "centralised_plus": Method(
        summary="centralised with the preset's network and training",
        client=local.Client,
        server=local.Server,
        client_args=GENTLE,
        pool="all",
        most_rounds=10,
        **SMALL,
    ),
    "centralised_held_plus": Method(
        summary="centralised_held with the preset's network and training",
        client=local.Client,
        server=local.Server,
        client_args=GENTLE,
        pool="held",
        most_rounds=10,
        **SMALL,
    ),
    "cxr_image_only": _films("films alone", "image_only"),
    "cxr_labs_only": _films("laboratory values alone", "image_only", anchor="labs"),
    "cxr_early": _films("metadata written beside the pixels", "early"),
    "cxr_late": _films("mean of what films and metadata say each", "late"),
    "cxr_gated": _films("metadata added to the film's latent through a gate", "joint"),
    "cxr_concat": _films("latents side by side", "joint", "concat"),
    "cxr_mean": _films("mean of the latents", "joint", "mean"),
    # Its fused head learns at this rate alone; with small steps it would stay behind the film's.
    "cxr_isolated": _films(
        "as cxr_gated; the film's encoder learns nothing of it", "isolated", metadata_lr=1e-3
    ),
    "cxr_local": _films("as cxr_gated, every site alone", "joint", pool="own"),
    "cxr_centralised": _films("as cxr_gated, on the patients of all sites", "joint", pool="all"),
    **SCANS,
}
