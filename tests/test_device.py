"""Where a site computes: what its settings name, or a sentence that says what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hospital import a_hospital, a_study
from polyclinic.algorithms import fedavg, fedmm, local, multi_fedavg
from polyclinic.algorithms.base import Client, Server
from polyclinic.data.batch import Batch
from polyclinic.device import CPU, here, on_device, require_device
from polyclinic.errors import SiteError
from polyclinic.models.multimodal import SiteModel
from polyclinic.settings import load_settings
from polyclinic.study import load_study
from polyclinic.worker.desk import Desk

ELSEWHERE = torch.device("cpu", 0)  # another name for the CPU, so that a missed move is seen


def cuda(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    """A machine with so many CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


@pytest.mark.parametrize(("name", "devices"), [("cpu", 0), ("cuda", 1), ("cuda:1", 2)])
def test_a_device_that_is_there_is_taken(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: int
) -> None:
    cuda(monkeypatch, devices)
    assert str(require_device(name)) == name


@pytest.mark.parametrize(
    ("name", "devices"),
    [("cuda", 0), ("cuda:1", 1), ("meta", 1), ("mps", 1), ("gpu", 1), ("", 1), ("cuda:x", 1)],
)
def test_one_that_is_not_is_site_its_to_mend(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: int
) -> None:
    cuda(monkeypatch, devices)
    with pytest.raises(SiteError, match=r"CUDA|cuda") as caught:
        require_device(name)
    assert caught.value.owner == "site IT"
    assert "device: cpu" in caught.value.remedy


def opened(consortium: Path, **changes: Any) -> Desk:
    settings = load_settings(consortium / "site-1" / "polyclinic.yaml")
    study = load_study(consortium)
    return Desk.open(settings.model_copy(update=changes), study, fedmm.Client())


def test_a_desk_does_not_open_for_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, consortium: Path
) -> None:
    cuda(monkeypatch, 0)
    with pytest.raises(SiteError, match="CUDA"):
        opened(consortium, device="cuda")


def test_a_desk_takes_the_sites_threads_and_device(
    monkeypatch: pytest.MonkeyPatch, consortium: Path, tmp_path: Path
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    desk = opened(consortium, threads=2, storage=str(tmp_path))
    assert threads == [2]
    assert desk.device == CPU


def test_the_device_holds_inside_its_context_only() -> None:
    def fail() -> None:
        with on_device(ELSEWHERE):
            assert here() is ELSEWHERE
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert here() is CPU


STUDY = a_study(encoder={"hidden": [8], "dropout": 0.25})
HALVES: dict[str, tuple[Client, Server]] = {
    "local": (local.Client(epochs=1), local.Server()),
    "fedavg": (fedavg.Client(epochs=1), fedavg.Server()),
    "multi_fedavg": (multi_fedavg.Client(epochs=1), multi_fedavg.Server()),
    "fedmm": (fedmm.Client(epochs=1, select_epoch=True, class_balance=True), fedmm.Server()),
}


def worked(client: Client, server: Server) -> list[dict[str, np.ndarray]]:
    """What two rounds, the end and a prediction give."""
    hospital, state = a_hospital(modalities=("a",), study=STUDY), server.initial(STUDY)
    first = client.train(hospital, state, {}, 1)
    second = client.train(hospital, state, first.personal, 2)
    last = client.finalise(hospital, state, second.personal)
    found = client.predict(hospital, state, last.personal, "test")
    return [second.update.tensors, last.personal, found]


@pytest.mark.parametrize("name", HALVES)
def test_every_batch_and_every_model_goes_to_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without a GPU this is what can be seen: nothing is encoded that was not moved before."""
    plain = worked(*HALVES[name])
    moved: set[int] = set()
    kept: list[torch.Tensor] = []  # so that no address is used twice
    models: list[object] = []
    to, embed, model_to = Batch.to, SiteModel.embed, SiteModel.to

    def spied_to(batch: Batch, device: Any) -> Batch:
        assert device is ELSEWHERE
        out = to(batch, device)
        out = Batch(out.inputs, out.fields, out.present, out.labels.clone())
        kept.append(out.labels)
        moved.add(id(out.labels))
        return out

    def spied_embed(model: SiteModel, batch: Batch) -> Any:
        assert id(batch.labels) in moved
        assert model in models
        return embed(model, batch)

    def spied_model(model: SiteModel, device: Any) -> SiteModel:
        assert device is ELSEWHERE
        models.append(model)
        return model_to(model, device)

    monkeypatch.setattr(Batch, "to", spied_to)
    monkeypatch.setattr(SiteModel, "embed", spied_embed)
    monkeypatch.setattr(SiteModel, "to", spied_model)
    with on_device(ELSEWHERE):
        there = worked(*HALVES[name])
    assert moved
    for a, b in zip(plain, there, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[n], b[n]) for n in a)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", HALVES)
def test_a_cuda_device_gives_what_the_cpu_gives(name: str) -> None:
    client, server = HALVES[name]
    still = a_study(encoder={"hidden": [8], "dropout": 0.0})
    hospital, state = a_hospital(modalities=("a",), study=still), server.initial(still)
    plain = client.train(hospital, state, {}, 1).update.tensors
    with on_device(torch.device("cuda")):
        there = client.train(hospital, state, {}, 1).update.tensors
    for n in plain:
        if n.startswith("enc."):
            np.testing.assert_allclose(plain[n], there[n], atol=1e-2)
