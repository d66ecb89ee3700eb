"""Metadata as planes of a film."""

from dataclasses import replace

import pytest
import torch

from polyclinic.data.batch import Batch
from polyclinic.errors import StudyError
from polyclinic.models.early import EarlyModel, planes, widened
from polyclinic.study import Study, parse_study

EDGE = 16


def a_study(network: dict[str, object] | None = None, **others: dict[str, object]) -> Study:
    film = {
        "kind": "image",
        "recipe": {"size": [EDGE, EDGE]},
        "encoder": network or {"widths": [8, 8]},
    }
    metadata = {"kind": "vector", "features": ["age", "female"]}
    return parse_study(
        {
            "name": "toy",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "embedding": 5,
            "modalities": {"cxr": film, "metadata": metadata, **others},
        }
    )


def a_batch(n: int = 6) -> Batch:
    torch.manual_seed(0)
    yes = torch.ones(n, dtype=torch.bool)
    return Batch(
        {"cxr": torch.randn(n, 1, EDGE, EDGE), "metadata": torch.randn(n, 2)},
        {"cxr": yes[:, None].clone(), "metadata": torch.rand(n, 2) < 0.7},
        {"cxr": yes.clone(), "metadata": yes.clone()},
        torch.arange(n) % 2,
    )


def test_each_field_gives_a_plane_of_its_value_and_one_of_its_presence() -> None:
    batch = a_batch(2)
    batch.fields["metadata"][0] = torch.tensor([True, False])
    x = planes(batch, "cxr", ("metadata",))

    assert x.shape == (2, 1 + 2 * 2, EDGE, EDGE)
    assert torch.equal(x[:, :1], batch.inputs["cxr"])
    age = batch.inputs["metadata"][0, 0]
    for channel, value in enumerate((age, 0.0, 1.0, 0.0), start=1):
        assert (x[0, channel] == value).all()


@pytest.mark.parametrize("garbage", [1e9, float("nan"), float("inf")])
def test_the_output_does_not_depend_on_what_stands_where_a_bit_is_zero(garbage: float) -> None:
    model, batch = EarlyModel(a_study(), "cxr", 8, 0.0).eval(), a_batch()
    batch.present["cxr"][0] = False
    batch.present["metadata"][1] = False
    expected = model(batch).fused
    film = batch.inputs["cxr"].clone()
    film[0] = garbage
    there = batch.fields["metadata"] & batch.present["metadata"][:, None]
    values = torch.where(there, batch.inputs["metadata"], garbage)
    found = model(replace(batch, inputs={"cxr": film, "metadata": values})).fused

    assert torch.isfinite(expected).all()
    assert torch.equal(found, expected)


def test_metadata_of_a_patient_without_a_film_still_count() -> None:
    model, batch = EarlyModel(a_study(), "cxr", 8, 0.0).eval(), a_batch()
    batch.present["cxr"][:] = False
    batch.fields["metadata"][:] = True
    other = {**batch.inputs, "metadata": batch.inputs["metadata"] + 1.0}
    assert not torch.equal(model(batch).fused, model(replace(batch, inputs=other)).fused)


@pytest.mark.parametrize(
    "network",
    [
        {"network": "compact", "widths": [8, 8]},
        {"network": "vit", "patch": 8, "width": 16, "heads": 2, "depth": 1},
    ],
    ids=lambda n: str(n["network"]),
)
def test_c10_the_encoder_is_that_of_the_registry_with_a_wider_input(
    network: dict[str, object],
) -> None:
    model = EarlyModel(a_study(network), "cxr", 0, 0.0)
    first = next(m for m in model.enc["cxr"].modules() if isinstance(m, torch.nn.Conv2d))
    assert type(model.enc["cxr"]).__name__ == "ImageEncoder"
    assert first.in_channels == 1 + 2 * 2
    assert model(a_batch()).fused.shape == (6, 1)


def test_oriented_gradients_read_metadata_beside_their_description() -> None:
    model = EarlyModel(a_study({"network": "hog", "cell": 4}), "cxr", 0, 0.0)
    batch = a_batch()
    batch.fields["metadata"][:] = True
    out = model.enc["cxr"].get_submodule("out")
    assert isinstance(out, torch.nn.Linear)
    assert out.in_features == 3 * 3 * 4 * 9 + 2 * 2
    other = {**batch.inputs, "metadata": batch.inputs["metadata"] + 1.0}
    assert not torch.equal(model(batch).fused, model(replace(batch, inputs=other)).fused)


def test_only_an_image_with_vectors_beside_it_can_be_fused_early() -> None:
    bag = {"kind": "bag", "dim": 3}
    for study, anchor in ((a_study(wsi=bag), "cxr"), (a_study(), "metadata")):
        with pytest.raises(StudyError, match="an image with vectors"):
            EarlyModel(study, anchor, 0, 0.0)
    with pytest.raises(StudyError, match="begins with a convolution"):
        widened(torch.nn.Linear(3, 2), 4)
