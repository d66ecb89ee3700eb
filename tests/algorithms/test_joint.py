"""Settings, contract and groups of a model joined on an anchor."""

from collections.abc import Iterable

import pytest
import torch

from hospital import a_study
from polyclinic.algorithms import cxr_metadata
from polyclinic.algorithms.joint import Joint, contract_of, dp_group, refuse_batch_norm
from polyclinic.errors import StudyError
from polyclinic.models.joint import JointModel, JointSettings
from polyclinic.study import parse_study

SIZES = {"cxr": 6, "labs": 3, "metadata": 4}
STUDY = a_study(SIZES)


def groups(names: Iterable[str]) -> set[str]:
    """First two parts of names."""
    return {".".join(n.split(".")[:2]) for n in names}


def test_the_contract_gives_each_tensor_to_the_holders_of_its_modality_or_to_all() -> None:
    contract = contract_of(Joint(anchor="cxr"), STUDY)
    everyone = {"head.fused", "fuse.missing"}

    assert groups(contract.names_for(())) == everyone
    assert groups(contract.names_for(("cxr",))) == everyone | {"enc.cxr", "head.cxr"}
    tables = contract.names_for(("metadata",))
    assert groups(tables) == everyone | {"enc.metadata", "head.metadata", "fuse.gate"}
    assert {n for n in tables if n.startswith("fuse.gate.")} == {
        "fuse.gate.metadata.weight",
        "fuse.gate.metadata.bias",
    }


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("image_only", {"enc.cxr", "head.cxr"}),
        ("late", {f"{k}.{m}" for k in ("enc", "head") for m in SIZES}),
    ],
)
def test_a_rival_exchanges_what_it_uses(mode: str, expected: set[str]) -> None:
    assert groups(contract_of(Joint(anchor="cxr", mode=mode), STUDY).specs) == expected


def test_the_dp_group_is_all_but_the_films_encoder_and_head() -> None:
    names = set(contract_of(Joint(anchor="cxr", mode="isolated"), STUDY).specs)
    rest = names - set(dp_group(names, "cxr"))
    assert {".".join(n.split(".")[:2]) for n in rest} == {"enc.cxr", "head.cxr"}
    assert dp_group(["enc.cxr2.a", "head.cxr2.a"], "cxr") == ["enc.cxr2.a", "head.cxr2.a"]


def test_c9_no_group_of_the_metadata_has_batch_normalisation_and_one_that_has_is_refused() -> None:
    model = JointModel(STUDY, tuple(SIZES), JointSettings(anchor="cxr", isolated=True))
    refuse_batch_norm(model, "cxr")
    model.enc["cxr"].norm = torch.nn.BatchNorm1d(5)
    refuse_batch_norm(model, "cxr")
    model.enc["labs"].norm = torch.nn.BatchNorm1d(5)
    with pytest.raises(StudyError, match="batch normalisation"):
        refuse_batch_norm(model, "cxr")


def test_c9_a_job_that_isolates_beside_batch_normalisation_has_no_contract() -> None:
    film = {"kind": "image", "recipe": {"size": [32, 32]}}
    other = film | {"encoder": {"widths": [8], "feature_norm": "batch"}}
    study = parse_study(
        {
            "name": "two",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {"cxr": film, "hand": other},
        }
    )
    assert contract_of(Joint(anchor="cxr"), study).specs
    assert contract_of(Joint(anchor="hand", mode="isolated"), study).specs
    with pytest.raises(StudyError, match="batch normalisation"):
        contract_of(Joint(anchor="cxr", mode="isolated"), study)


def test_an_anchor_is_named_or_the_only_image() -> None:
    with pytest.raises(StudyError, match="one modality of kind image"):
        cxr_metadata.Server().contract(STUDY)
    with pytest.raises(StudyError, match="a modality of the study"):
        cxr_metadata.Server(anchor="mri").contract(STUDY)
    with pytest.raises(StudyError, match="image with vectors"):
        cxr_metadata.Server(mode="early", anchor="cxr").contract(STUDY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "branch_only"},
        {"joining": "sum"},
        {"head_hidden": -1},
        {"head_dropout": 1.0},
        {"metadata_lr": 0.0},
        {"image_weight": -1.0},
        {"modality_dropout": 1.0},
        {"field_dropout": -0.1},
        {"mode": "isolated", "balance": "miles"},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StudyError, match=list(wrong)[-1]):
        cxr_metadata.Client(**wrong)


def test_both_halves_share_their_settings_defaults() -> None:
    fields = Joint.__dataclass_fields__
    for name in fields:
        ours = getattr(cxr_metadata.Client(), name)
        assert ours == getattr(cxr_metadata.Server(), name)
