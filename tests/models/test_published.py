"""Published weights in networks for grey films, and the one road to start from them."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import densenet121, resnet18

from polyclinic.algorithms.fedavg import Server
from polyclinic.errors import SiteError, StudyError
from polyclinic.models import build
from polyclinic.models.published import fill
from polyclinic.models.weights import weights_at
from polyclinic.settings import load_settings, server_weights
from polyclinic.study import Modality, Study, parse_study

NAME = "resnet18-photographs"


def grey(network: str, feature_norm: str = "batch") -> nn.Module:
    encoder = {"network": network, "feature_norm": feature_norm}
    built = build("cxr", Modality(kind="image", recipe={"size": [64, 64]}, encoder=encoder), 4)
    return built.network.eval()


@pytest.mark.parametrize(
    ("network", "published"), [("resnet18", resnet18), ("densenet121", densenet121)]
)
def test_a_grey_film_gives_what_the_published_network_gives_for_three_equal_colours(
    network: str, published
) -> None:
    torch.manual_seed(0)
    theirs, ours = published(weights=None).eval(), grey(network)
    fill(ours, theirs.state_dict())
    x = torch.randn(2, 1, 64, 64)
    if network == "resnet18":
        theirs.fc = nn.Identity()
    else:
        theirs.classifier = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


def test_old_names_of_densenet_are_understood() -> None:
    torch.manual_seed(0)
    new = densenet121(weights=None).state_dict()
    old = {n.replace("norm1", "norm.1").replace("conv2", "conv.2"): v for n, v in new.items()}
    a, b = grey("densenet121"), grey("densenet121")
    fill(a, new)
    fill(b, old)
    assert all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())


def test_group_normalisation_takes_scales_and_leaves_statistics() -> None:
    given = resnet18(weights=None).state_dict()
    given["bn1.weight"] += 1.5
    ours = grey("resnet18", "group")
    fill(ours, given)
    assert torch.equal(ours.bn1.weight, given["bn1.weight"])


def test_one_missing_or_misshapen_tensor_refuses_all_and_changes_nothing() -> None:
    for change in ({"conv1.weight": torch.zeros(64, 4, 7, 7)}, {"bn1.weight": None}):
        given = resnet18(weights=None).state_dict() | change
        given = {n: v for n, v in given.items() if v is not None}
        ours = grey("resnet18")
        before = {n: v.clone() for n, v in ours.state_dict().items()}
        with pytest.raises(SiteError, match="1 of "):
            fill(ours, given)
        assert all(torch.equal(v, before[n]) for n, v in ours.state_dict().items())


def a_study(sha256: str) -> Study:
    encoder = {"network": "resnet18", "weights": NAME, "weights_sha256": sha256}
    return parse_study(
        {
            "name": "tiny",
            "task": {"label": "y", "classes": ["no", "yes"]},
            "modalities": {
                "cxr": {"kind": "image", "recipe": {"size": [32, 32]}, "encoder": encoder}
            },
            "embedding": 4,
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.pth"
    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_first_state_of_a_run_holds_the_stated_weights(file: Path) -> None:
    study = a_study(digest(file))
    with weights_at({NAME: str(file)}):
        state = Server().initial(study)
    given = torch.load(file, weights_only=True)["layer1.0.conv1.weight"]
    found = torch.from_numpy(state.tensors["enc.cxr.network.layer1.0.conv1.weight"])
    assert torch.equal(found, given)


def test_without_the_file_a_run_does_not_start_from_random_weights(file: Path) -> None:
    study = a_study(digest(file))
    with pytest.raises(SiteError, match="'resnet18-photographs'"):
        Server().initial(study)
    with weights_at({"another": str(file)}), pytest.raises(SiteError):
        Server().initial(study)
    with weights_at({NAME: str(file.with_name("gone.pth"))}), pytest.raises(SiteError):
        Server().initial(study)


def test_another_file_under_the_same_name_is_refused(file: Path) -> None:
    with weights_at({NAME: str(file)}), pytest.raises(SiteError, match="another file"):
        Server().initial(a_study("0" * 64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": NAME},
        {"weights_sha256": "0" * 64},
        {"weights": "../x", "weights_sha256": "0" * 64},
        {"weights": "/data/x.pth", "weights_sha256": "0" * 64},
        {"weights": ".ssh", "weights_sha256": "0" * 64},
        {"weights": NAME, "weights_sha256": "0" * 63},
    ],
)
def test_a_job_names_no_path_and_no_weights_without_their_hash(wrong: dict[str, str]) -> None:
    with pytest.raises(StudyError):
        build("cxr", Modality(kind="image", encoder=wrong), 4)


def test_a_site_and_a_server_say_where_weights_lie(tmp_path: Path) -> None:
    (tmp_path / "polyclinic.yaml").write_text(f"site: a\nweights: {{{NAME}: w/x.pth}}\n")
    assert load_settings(tmp_path / "polyclinic.yaml").weights == {NAME: str(tmp_path / "w/x.pth")}

    assert server_weights(tmp_path) == {}
    (tmp_path / "weights.yaml").write_text(f"weights: {{{NAME}: /data/x.pth}}\n")
    assert server_weights(tmp_path) == {NAME: "/data/x.pth"}
    (tmp_path / "weights.yaml").write_text("weights: {../x: y}\n")
    with pytest.raises(SiteError):
        server_weights(tmp_path)
