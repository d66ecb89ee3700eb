"""Bytes on the wire per round and site, over the tensors that the site must send and receive.

    python tests/benchmarks/wire_bytes.py --json OUT

The demo's federation runs on loopback with mutual TLS, and every site reaches the server through a
counting relay of its own (see ``relay.py``): counted is everything on the site's connections from
the ledger line of one round to that of the next, TLS, headers, heartbeats and polling included. The
least possible is ``Contract.nbytes_for`` of the modalities the site holds, once up and once down.
Two models: the demo's own (tens of kB an update, where the fixed cost of a message shows), and the
same study with wider encoders (about 3.5 M parameters). Target: at most 1.02 for the latter.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from figures import per_round
from relay import DOWN, UP, Relay
from rig import (
    Record,
    Services,
    demo_study,
    enter_own_network,
    generated,
    round_times,
    run_job,
    workspace,
    write_job,
    write_json,
)

from polyclinic.jobs import load_job
from startup import SITES

TARGET = 1.02
WIDE: dict[str, Any] = {
    "wsi": {"instance": [1024], "attention": 512, "hidden": [1024]},
    "cnv": {"hidden": [1024, 1024]},
    "metadata": {"hidden": [1024, 1024]},
}


class RelayedServices(Services):
    """The POC with a counting relay between each site and the server."""

    relays: dict[str, Relay]

    def lay_policy(self) -> None:
        """Ours; then every site is told its relay's port instead of the server's."""
        super().lay_policy()
        self.relays = {}
        for site in SITES:
            path = self.kits / site / "startup" / "fed_client.json"
            config = json.loads(path.read_text())
            service = config["servers"][0]["service"]
            host, _, port = service["target"].rpartition(":")
            self.relays[site] = Relay(int(port))
            service["target"] = f"{host}:{self.relays[site].port}"
            path.write_text(json.dumps(config))


def study(wide: bool) -> tuple[Record, Record]:
    """The demo's study and panels, with wider encoders when wished."""
    found, panels = demo_study()
    if wide:
        for name, encoder in WIDE.items():
            found["modalities"][name]["encoder"] = encoder
    return found, panels


def ratios(poc: RelayedServices, job: Path) -> Record:
    """By site: the least bytes one way, and the mean that passed each way in a round."""
    loaded = load_job(job)
    contract = loaded.server.contract(loaded.study)
    lines = run_job(poc, job)
    held = next(line for line in lines if line["kind"] == "census")["sites"]
    ends = round_times(lines)
    found = {}
    for site, relay in poc.relays.items():
        least = contract.nbytes_for(held[site]["modalities"])
        passed = {d: per_round(ends, relay.passed, d) for d in (UP, DOWN)}
        found[site] = {
            "least": least,
            **{d: round(n) for d, n in passed.items()},
            **{f"{d}_ratio": round(n / least, 4) for d, n in passed.items()},
            "ratio": round(sum(passed.values()) / (2 * least), 4),
        }
    parameters = sum(spec.nbytes for spec in contract.specs.values()) // 4
    return {"parameters": parameters, "rounds": len(ends), "sites": found}


def measure(folder: Path, rounds: int) -> Record:
    """The figures of both models; the federation is stopped whatever happens."""
    poc = RelayedServices(folder / "o")
    generated(poc)
    found: Record = {}
    try:
        poc.prepare()
        poc.start()
        for name, wide in (("demo", False), ("wide", True)):
            content, panels = study(wide)
            job = write_job(
                folder / name, study=content, panels=panels, rounds=rounds, algorithm="fedmm"
            )
            found[name] = ratios(poc, job)
    finally:
        poc.stop()
        for relay in poc.relays.values():
            relay.close()
    return found


def main() -> int:
    """Exit code 0 when the target is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    enter_own_network()
    with workspace() as folder:
        found = measure(folder, args.rounds)
    for name, figures in found.items():
        for site, f in figures["sites"].items():
            print(
                f"{name} ({figures['parameters']} parameters) {site}: least {f['least']}, "
                f"sent {f['up']}, received {f['down']}, ratio {f['ratio']}"
            )
    worst = max(f[f"{way}_ratio"] for f in found["wide"]["sites"].values() for way in (UP, DOWN))
    met = worst <= TARGET
    print(f"worst of the wide model: {worst} (target {TARGET}): {'met' if met else 'MISSED'}")
    write_json(args.json, {**found, "worst": worst, "target": TARGET, "met": met})
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
