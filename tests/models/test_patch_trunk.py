import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet34

from polyclinic.errors import SiteError
from polyclinic.models.patch_trunk import MEAN, SCALE, PatchTrunk, digest, extractor, folded

TILES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def whole() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet34(weights=None).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return model


def test_features_are_stage_3_of_resnet_34_averaged_over_the_tile(tmp_path, whole) -> None:
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    given = extractor(str(tmp_path / "w.safetensors"))
    x = torch.from_numpy(TILES).permute(0, 3, 1, 2) / 255.0
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SCALE)[:, None, None]
    with torch.inference_mode():
        x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))
        expected = whole.layer3(whole.layer2(whole.layer1(x))).mean(dim=(2, 3))
    found = given.features(TILES)
    assert found.shape == (3, 256)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)


def test_folding_normalisation_into_convolutions_changes_no_feature(whole) -> None:
    torch.manual_seed(0)
    trunk = PatchTrunk()
    kept = {f"stages.{k}": v for k, v in whole.state_dict().items()}
    trunk.load_state_dict({k: kept[k] for k in trunk.state_dict()})
    trunk.eval()
    x = torch.from_numpy(TILES).permute(0, 3, 1, 2)
    with torch.inference_mode():
        before = trunk(x)
        after = folded(trunk)(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in trunk.modules())
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_the_name_is_that_of_the_weights_before_anything_is_folded(tmp_path, whole) -> None:
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    trunk = PatchTrunk()
    kept = {f"stages.{k}": v for k, v in whole.state_dict().items()}
    trunk.load_state_dict({k: kept[k] for k in trunk.state_dict()})
    assert extractor(str(tmp_path / "w.safetensors")).sha256 == digest(trunk)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_tiles_are_shared_out_to_threads_in_order(threads) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    given, before = extractor("random:0"), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert given.batch == 2 * threads
        found = given.features(tiles)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    alone = np.concatenate([given._embedded(tile[None]) for tile in tiles])
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)


def test_the_name_is_of_the_weights_not_of_their_file(tmp_path, whole) -> None:
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    one, other = (extractor(str(tmp_path / f"w.{s}")) for s in ("safetensors", "pth"))
    assert one.name == other.name == f"resnet34-layer3-{one.sha256[:8]}"
    assert one.sha256 == other.sha256
    changed = {k: v.clone() for k, v in whole.state_dict().items()}
    changed["layer3.5.conv2.weight"][0, 0, 0, 0] += 1e-6
    save_file(changed, tmp_path / "c.safetensors")
    assert extractor(str(tmp_path / "c.safetensors")).name != one.name


def test_random_weights_say_so_in_the_name_and_repeat() -> None:
    before = torch.random.get_rng_state()
    one, again, other = (extractor(f"random:{s}") for s in (1, 1, 2))
    assert one.name == "resnet34-layer3-random1"
    assert one.sha256 == again.sha256 != other.sha256
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(one.features(TILES), again.features(TILES))
    assert np.isfinite(one.features(TILES)).all()


def test_features_do_not_depend_on_the_other_tiles_of_a_batch() -> None:
    given = extractor("random:0")
    alone = np.concatenate([given.features(t[None]) for t in TILES])
    np.testing.assert_allclose(given.features(TILES), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", ["random:", "random:-1", "random:x", "/nowhere/secret.pth"])
def test_weights_that_are_not_there_are_told_without_their_path(weights) -> None:
    with pytest.raises(SiteError, match="nothing is downloaded") as refusal:
        extractor(weights)
    assert "secret" not in str(refusal.value)


def test_torchvisions_weights_come_from_its_cache_and_are_never_downloaded(
    tmp_path, monkeypatch, whole
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(SiteError, match=r"resnet34-b627a593\.pth"):
        extractor("IMAGENET1K_V1")
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / "resnet34-b627a593.pth")
    with pytest.raises(SiteError, match="another hash"):
        extractor("IMAGENET1K_V1")


def test_a14_weights_of_another_hash_network_or_with_code_are_refused(tmp_path, whole) -> None:
    path = tmp_path / "w.safetensors"
    save_file(whole.state_dict(), path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor(str(path), right).name.startswith("resnet34-layer3-")
    with pytest.raises(SiteError):
        extractor(str(path), "0" * 64)
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(SiteError, match="missing"):
        extractor(str(path))
    torch.save(whole, tmp_path / "model.pth")  # a pickled module is a program
    with pytest.raises(SiteError):
        extractor(str(tmp_path / "model.pth"))
