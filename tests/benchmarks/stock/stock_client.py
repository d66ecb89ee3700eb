"""Client script for stock FLARE: our data reader and our local training, FLARE's Client API.

The seconds each round of training takes are written to a file per site.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare
import torch

from polyclinic.algorithms.multi_fedavg import Client
from polyclinic.data.cohort import open_cohort
from polyclinic.exchange import State
from polyclinic.settings import load_settings
from polyclinic.study import load_study


def main() -> None:
    """Train whenever FLARE sends a model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    flare.init()
    site = flare.get_site_name()
    study = load_study(folder)
    patients = open_cohort(load_settings(folder / "consortium" / site / "polyclinic.yaml"), study)
    client = Client()
    with (folder / f"{site}.jsonl").open("w") as seconds:
        while flare.is_running():
            model = flare.receive()
            if model is None:
                break
            started = time.monotonic()
            old = {n: np.asarray(v) for n, v in model.params.items()}
            trained = client.train(patients, State(old, model.current_round), {}, 1)
            new = {n: torch.as_tensor(old[n] + d) for n, d in trained.update.tensors.items()}
            record = {"round": model.current_round, "seconds": time.monotonic() - started}
            seconds.write(json.dumps(record) + "\n")
            seconds.flush()
            weight = int(trained.update.scalars["n"])
            flare.send(flare.FLModel(params=new, meta={"NUM_STEPS_CURRENT_ROUND": weight}))


if __name__ == "__main__":
    main()
