"""What make_kits.sh writes: hardened kits, closed files, certificates that fit."""

import json
import re
import shutil
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certificates import forget
from consortium import Consortium
from harden import _replace
from kits import main, make_kits
from polyclinic.errors import SiteError
from polyclinic.flare import policy
from polyclinic.flare.doctor import examine
from polyclinic.flare.manifest import manifest_faults
from polyclinic.settings import load_settings

SITES = ("site-1", "site-2", "site-3")


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def certificate(kit: Path) -> x509.Certificate:
    name = "server.crt" if (kit / "startup" / "server.crt").exists() else "client.crt"
    return x509.load_pem_x509_certificate((kit / "startup" / name).read_bytes())


def test_every_participant_has_a_signed_kit(description: Consortium, made: Path) -> None:
    people = [a.name for a in description.admins]
    assert sorted(p.name for p in made.iterdir()) == sorted([*SITES, "coordinator", *people])
    assert [manifest_faults(kit) for kit in made.iterdir()] == [[]] * 8


def test_nothing_is_open_to_others_the_root_key_least_of_all(made: Path) -> None:
    there = [made.parent / "state", made.parent / "state" / "cert.json", *made.rglob("*")]
    assert [p for p in there if p.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)] == []


def test_no_file_of_a_kit_names_the_shared_temporary_folder(made: Path) -> None:
    running = [made / n for n in (*SITES, "coordinator")]
    texts = [p.read_text() for kit in running for p in kit.rglob("*") if p.is_file()]
    assert not [t for t in texts if "/tmp/" in t]


@pytest.mark.parametrize("site", SITES)
def test_a_hospital_allows_our_classes_only_and_filters_what_leaves(made: Path, site: str) -> None:
    local, startup = made / site / "local", made / site / "startup"
    resources = read(local / "resources.json")
    assert resources["class_allow_list"] == ["polyclinic.flare.", "polyclinic.algorithms."]
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["allow_log_streaming"] is False
    assert "log_streamer" not in json.dumps(resources)
    assert "default_scope" not in read(local / "privacy.json")
    assert policy.EGRESS_FILTER in json.dumps(read(local / "privacy.json"))
    assert policy.JOB_FILTER_BAN in json.dumps(read(startup / policy.JOB_RESOURCES))
    rights = read(local / "authorization.json")["permissions"]
    assert {r["byoc"] for r in rights.values()} == {"none"}
    assert {r["shell_commands"] for r in rights.values()} == {"none"}
    assert not list(local.glob("authorization.json.default"))


def test_everyone_speaks_grpc_with_mutual_tls_and_wants_signed_jobs(made: Path) -> None:
    server = read(made / "coordinator" / "startup" / "fed_server.json")
    assert server["servers"][0]["service"]["scheme"] == "grpc"
    assert server["servers"][0]["connection_security"] == "mtls"
    assert server["require_signed_jobs"] is True
    for site in SITES:
        client = read(made / site / "startup" / "fed_client.json")
        assert client["servers"][0]["service"]["scheme"] == "grpc"
        assert client["client"]["connection_security"] == "mtls"
        assert client["require_signed_jobs"] is True


def test_a_site_is_told_what_it_said_it_holds(description: Consortium, made: Path) -> None:
    for hospital in description.hospitals:
        settings = load_settings(made / hospital.name / "local" / "polyclinic.yaml")
        assert settings.site == hospital.name
        assert settings.minimum_sites == description.minimum_sites
        assert settings.cohort("demo").held == hospital.modalities
        assert settings.storage == str((made / hospital.name / "storage").resolve())
        announced = read(made / hospital.name / "local" / "resources.json")["modalities"]
        assert announced == list(hospital.modalities)


def test_the_choices_of_a_site_stand_ready_as_comments(made: Path) -> None:
    """Without its mark each is a line that the settings take, at the place where it stands."""
    path = made / "site-2" / "local" / "polyclinic.yaml"
    choices = re.sub(r"^( *)# (\w+: \S+.*  # )", r"\1\2", path.read_text(), flags=re.MULTILINE)
    chosen = path.with_name("chosen.yaml")
    chosen.write_text(choices)
    try:
        told = load_settings(chosen)
    finally:
        chosen.unlink()
    held = told.cohort("demo").modalities
    assert (told.minimum_cell, told.max_loss_fraction) == (11, 0.01)
    assert {m: s.units for m, s in held.items()} == {
        "wsi": "",
        "cnv": "log2 ratio",
        "metadata": "log2 ratio",
    }
    assert (held["wsi"].layout, held["wsi"].extractor) == ("clam", "uni_v1")


def test_certificates_have_long_keys_the_chosen_lifetime_and_the_servers_names(
    description: Consortium, tmp_path: Path
) -> None:
    short = description.model_copy(
        update={"validity": description.validity.model_copy(update={"kit_days": 20})}
    )
    made = make_kits(short, tmp_path)
    for kit in made.iterdir():
        cert = certificate(kit)
        assert cert.public_key().key_size == 3072
        assert cert.not_valid_after_utc - cert.not_valid_before_utc == timedelta(days=20)
    names = certificate(made / "coordinator").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]


def test_a_second_run_keeps_certificates_and_renews_only_whom_it_is_asked_to(
    description: Consortium, tmp_path: Path
) -> None:
    first = make_kits(description, tmp_path)
    second = make_kits(description, tmp_path, renew=["site-2"])
    assert second.name == "prod_01"
    kept = {n: certificate(first / n) == certificate(second / n) for n in (*SITES, "coordinator")}
    assert kept == {"site-1": True, "site-2": False, "site-3": True, "coordinator": True}
    root = (first / "site-1" / "startup" / "rootCA.pem").read_bytes()
    assert (second / "site-2" / "startup" / "rootCA.pem").read_bytes() == root


def test_a_stranger_cannot_be_renewed(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="site-9"):
        forget(tmp_path / "cert.json", ["site-9"])


# -- keys that never leave the hospital ----------------------------------------------------------


def request(folder: Path, name: str, bits: int = 3072) -> Path:
    """A key and a signing request, as docs/provisioning.md has a hospital make them."""
    command = ["openssl", "req", "-new", "-newkey", f"rsa:{bits}", "-nodes"]
    command += ["-keyout", str(folder / "client.key"), "-out", str(folder / "site-1.csr")]
    subprocess.run([*command, "-subj", f"/CN={name}"], check=True, capture_output=True)
    return folder / "site-1.csr"


def with_request(description: Consortium, csr: Path) -> Consortium:
    first, *others = description.hospitals
    own = first.model_copy(update={"request": str(csr)})
    return description.model_copy(update={"hospitals": (own, *others)})


def test_a_hospital_that_made_its_own_key_gets_a_kit_without_one(
    description: Consortium, tmp_path: Path
) -> None:
    made = make_kits(with_request(description, request(tmp_path, "site-1")), tmp_path / "out")
    kit = made / "site-1"
    assert not list(kit.rglob("*.key"))
    assert (made / "site-2" / "startup" / "client.key").exists()
    state = (made.parent / "state" / "cert.json").read_text()
    assert "site-1" not in json.loads(state)

    found = {f.check: f for f in examine(kit).findings}
    assert found["key-belongs"].status == "fail"
    shutil.copy(tmp_path / "client.key", kit / "startup" / "client.key")
    found = {f.check: f for f in examine(kit).findings}
    assert {found[c].status for c in ("key-belongs", "in-date", "signed-manifest")} == {"ok"}


@pytest.mark.parametrize(("name", "bits"), [("site-2", 3072), ("site-1", 2048)])
def test_a_request_of_another_name_or_with_a_short_key_is_not_certified(
    description: Consortium, tmp_path: Path, name: str, bits: int
) -> None:
    wrong = with_request(description, request(tmp_path, name, bits))
    with pytest.raises(SiteError, match="a signing request of 'site-1'"):
        make_kits(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_start_gate_is_not_placed_into_a_script_it_does_not_know(tmp_path: Path) -> None:
    script = tmp_path / "start.sh"
    script.write_text("echo hello\n")
    with pytest.raises(SiteError, match="pinned version of nvflare"):
        _replace(script, "$DIR/sub_start.sh &", "gate")


DESCRIPTION = Path(__file__).resolve().parents[2] / "provisioning" / "consortium.yaml"
SCRIPT = DESCRIPTION.with_name("make_kits.sh")


def test_the_command_tells_people_and_programs_where_the_kits_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DESCRIPTION), str(tmp_path), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert Path(told["kits"]).is_dir()
    assert {"coordinator", *SITES} < set(told["participants"])
    assert main([str(DESCRIPTION), str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "hospital, metadata, wsi" in text
    assert f"root key, to be locked away: {tmp_path}/polyclinic-demo/state" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "arguments are required: description, out"),
        (["none.yaml", "out"], "'none.yaml' as readable YAML, got no such file"),
        (["none.yaml", "out", "--formt", "json"], "unrecognized arguments: --formt"),
    ],
)
def test_wrong_input_ends_with_4_and_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 4
    told = " ".join(capsys.readouterr().err.split())
    assert words in told
    assert told.endswith("(consortium engineer).")


# -- the Python that kits are made and started with -----------------------------------------------


def bare(**more: str) -> dict[str, str]:
    """An environment in which no virtual environment is active."""
    return {"PATH": "/usr/bin:/bin", **more}


@pytest.mark.parametrize("script", ["start.sh", "sub_start.sh"])
def test_a_start_without_polyclinic_is_told_in_one_sentence(made: Path, script: str) -> None:
    path = made / "site-1" / "startup" / script
    done = subprocess.run([path], env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Expected a Python with polyclinic and nvflare, got 'python3'")


def test_a_start_takes_the_python_it_is_told_and_asks_its_doctor(made: Path) -> None:
    """The kit as made has no data yet, so that nothing is left running."""
    path = made / "site-1" / "startup" / "start.sh"
    env = bare(POLYCLINIC_PYTHON=sys.executable)
    done = subprocess.run([path], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "refused: cohorts: the folder of cohort 'demo' is not there" in done.stderr


def test_make_kits_says_which_python_it_needs(tmp_path: Path) -> None:
    env = bare(POLYCLINIC_PYTHON="/usr/bin/false")
    done = subprocess.run([SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "got none among: /usr/bin/false;" in done.stderr
