"""The vector encoder."""

import pytest
import torch

from polyclinic import models
from polyclinic.errors import StudyError
from polyclinic.models.vector import VectorEncoder
from polyclinic.study import Modality


def panel(size: int = 3, **encoder: object) -> Modality:
    return Modality(
        kind="vector", features=tuple(f"f{i}" for i in range(size)), encoder=dict(encoder)
    )


def test_the_default_is_two_hidden_elu_layers_with_alpha_dropout_and_a_layer_norm() -> None:
    encoder = models.build("cnv", panel(), 5)

    assert isinstance(encoder, VectorEncoder)
    names = [type(layer).__name__ for layer in encoder.hidden]
    assert names == ["Linear", "ELU", "AlphaDropout"] * 2
    widths = [layer.out_features for layer in encoder.hidden if isinstance(layer, torch.nn.Linear)]
    assert widths == [256, 256]
    assert encoder.out.out_features == 5
    assert isinstance(encoder.norm, torch.nn.LayerNorm)


def test_an_absent_field_counts_as_zero_whatever_stands_there() -> None:
    encoder = models.build("cnv", panel(hidden=[4]), 5).eval()
    fields = torch.tensor([[True, False, True]])
    zero = encoder(torch.tensor([[1.0, 0.0, 2.0]]), fields)

    for garbage in (7.0, float("nan"), float("inf")):
        assert torch.equal(encoder(torch.tensor([[1.0, garbage, 2.0]]), fields), zero)


def test_a_linear_encoder_is_one_linear_map() -> None:
    encoder = models.build("cnv", panel(network="linear", norm="none"), 5)
    assert isinstance(encoder, VectorEncoder)
    x, everything = torch.randn(4, 3), torch.ones(4, 3, dtype=torch.bool)

    expected = x @ encoder.out.weight.T + encoder.out.bias

    torch.testing.assert_close(encoder(x, everything), expected)


@pytest.mark.parametrize(
    ("encoder", "named"),
    [
        ({"hiden": [4]}, "hiden"),
        ({"hidden": [0]}, "hidden.0"),
        ({"dropout": 1.0}, "dropout"),
        ({"network": "transformer"}, "network"),
        ({"norm": "batch"}, "norm"),
    ],
)
def test_an_unknown_or_impossible_setting_is_named(encoder: dict[str, object], named: str) -> None:
    with pytest.raises(StudyError, match=f"'{named}' of modality 'cnv'"):
        models.build("cnv", panel(**encoder), 5)


def test_values_beyond_the_clip_count_as_the_clip() -> None:
    encoder = models.build("cnv", panel(hidden=[4], clip=3.0), 5).eval()
    everything = torch.ones(1, 3, dtype=torch.bool)
    wild, tame = torch.tensor([[50.0, -50.0, 1.0]]), torch.tensor([[3.0, -3.0, 1.0]])
    assert torch.equal(encoder(wild, everything), encoder(tame, everything))


def test_a_token_and_presence_bits_make_the_input_value_or_tau_and_bit() -> None:
    encoder = models.build(
        "age", panel(2, network="linear", norm="none", missing="token", presence=True), 5
    )
    assert isinstance(encoder, VectorEncoder)
    assert encoder.tau is not None
    with torch.no_grad():
        encoder.tau.value.copy_(torch.tensor([0.5, -0.5]))
    fields = torch.tensor([[True, False]])

    # [b v + (1 - b) τ, b] with v = (2, garbage), b = (1, 0), τ = (.5, -.5)
    read = torch.tensor([[2.0, -0.5, 1.0, 0.0]])
    expected = read @ encoder.out.weight.T + encoder.out.bias

    for garbage in (0.0, 7.0, float("nan")):
        torch.testing.assert_close(encoder(torch.tensor([[2.0, garbage]]), fields), expected)


def test_a_token_learns_only_from_patients_who_lack_the_field() -> None:
    encoder = models.build("age", panel(2, hidden=[4], missing="token"), 5)
    encoder(torch.ones(1, 2), torch.tensor([[True, False]])).square().sum().backward()
    assert isinstance(encoder, VectorEncoder)
    assert encoder.tau is not None
    gradient = encoder.tau.value.grad
    assert gradient is not None
    assert gradient[0] == 0
    assert gradient[1] != 0


def test_mlp_norm_is_layer_norm_and_gelu_after_each_hidden_layer() -> None:
    encoder = models.build("age", panel(network="mlp_norm", hidden=[64, 64], dropout=0.0), 5)
    assert isinstance(encoder, VectorEncoder)
    names = [type(layer).__name__ for layer in encoder.hidden]
    assert names == ["Linear", "LayerNorm", "GELU"] * 2


def test_the_defaults_have_the_weights_they_had_before_there_were_tokens() -> None:
    names = set(models.build("cnv", panel(hidden=[4]), 5).state_dict())
    layers = ("hidden.0", "out", "norm")
    assert names == {f"{layer}.{what}" for layer in layers for what in ("weight", "bias")}
