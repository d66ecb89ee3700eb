"""``polyclinic run predict``: segment a site's scans with what a run left, at that site."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from polyclinic.cli import output
from polyclinic.cli.run_places import find_ledger, near
from polyclinic.cli.studies import given_site
from polyclinic.errors import CheckpointError, SiteError, StudyError
from polyclinic.settings import SiteSettings

if TYPE_CHECKING:
    from polyclinic.study import Study
    from polyclinic.worker.segmentation import Score, Segmenter, SegmentingClient

Model = Literal["personal", "global"]
Splits = Literal["all", "test"]
CONFIG = "config_fed_client.json"


def predict(
    place: Annotated[
        Path,
        typer.Argument(
            help="ledger.jsonl, or a folder that holds one: a run's at the server, or a "
            "downloaded job."
        ),
    ],
    site: Annotated[Path, typer.Option("--site", help="Folder of a polyclinic.yaml, or it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    job: Annotated[
        Path | None,
        typer.Option("--job", help="The job that began the run, where it is not with the ledger."),
    ] = None,
    model: Annotated[
        Model, typer.Option(help="The site's own model, or the one that all sites share.")
    ] = "personal",
    sequences: Annotated[
        str, typer.Option(help="Those that the model is given, as flair,t1ce; all when left out.")
    ] = "",
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Also a picture of each patient, for people here.")
    ] = False,
    split: Annotated[
        Splits, typer.Option(help="All patients, or those whom the run was tested on.")
    ] = "all",
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Class maps of a site's scans, on the grid of their files; all of it stays at the site.

    Example: polyclinic run predict result --site local --out maps --overlays
    """
    with output.guarded(format):
        segmenter = opened(place, site, job, model, _named(sequences), out, overlays=overlays)
        facts = segmented(segmenter, split)
        output.emit(facts, text=lambda: _show(facts), format=format)


def segmented(segmenter: "Segmenter", split: Splits) -> dict[str, Any]:
    """Write the maps, the pictures and the table; what may be said of it on a screen.

    Raises:
        PolyclinicError: the folder is not empty, or the site's data cannot be used as they are.
    """
    from polyclinic.data.scan import mask_of
    from polyclinic.data.scan_cases import open_for_prediction
    from polyclinic.worker.segmentation import TABLE, UNKNOWN, known_truths, write_scores

    settings, study, out = segmenter.settings, segmenter.study, segmenter.out
    make_empty(out)
    truths = known_truths(settings, study, segmenter.split_mark)
    if split == "test" and all(truth.split == UNKNOWN for truth in truths.values()):
        raise StudyError(
            expected="the cohort that the run had, whose split says who was in the test",
            got="another, or no trace of the run's",
            remedy="restore its manifest and files, or leave --split out",
        )
    found = open_for_prediction(settings, study)
    tested = {key for key, truth in truths.items() if truth.split == "test"}
    cases = [c for c in found.cases if split == "all" or c.pseudonym in tested]
    with output.progress("patients", len(cases)) as advance:
        written, scores = segmenter.run(cases, truths, advance)
    if scores:
        write_scores(out, scores, mask_of(study))
    return {
        "out": str(out),
        "segmented": written,
        "without_sequences": len(cases) - written,
        "left_out": dict(found.report.lost),
        "dice": means(scores, study),
        "table": str(out / TABLE) if scores else "",
    }


def opened(
    place: Path,
    site: Path,
    job: Path | None,
    model: Model,
    sequences: tuple[str, ...],
    out: Path,
    *,
    overlays: bool = False,
) -> "Segmenter":
    """The run's model at the site.

    Raises:
        PolyclinicError: a part of the run is missing or altered, or the site took no part in it.
    """
    from polyclinic.checkpoint import last_state
    from polyclinic.ledger import read_ledger
    from polyclinic.worker.desk import SPLIT_MARK
    from polyclinic.worker.segmentation import Segmenter

    ledger = find_ledger(place)
    records = read_ledger(ledger)
    study, client = _agreed(ledger, records, job)
    settings = given_site(site)
    _require_held(sequences, settings, study)
    state = last_state(ledger.parent, records, client.contract(study))
    if model == "global" and not any(n.startswith("dec.") for n in state.tensors):
        raise StudyError(
            expected="a run with a model that all sites share",
            got="one that leaves the decoder to each site",
            remedy="leave --model out",
        )
    run = next(str(r["run"]) for r in records if r.get("kind") == "start")
    kept = _personal(settings, study, client, run)
    if model == "personal" and not kept:
        raise SiteError(
            expected="what this site keeps of the run in its storage",
            got="nothing",
            remedy="use --model global, or run this at a site that took part",
        )
    mark, personal = kept.get(SPLIT_MARK), kept if model == "personal" else {}
    return Segmenter(
        settings, study, client, state, personal, model, sequences, out, overlays, mark
    )


def make_empty(out: Path) -> None:
    """Make a folder that only this account can read.

    Raises:
        StudyError: there is something in it already, or it cannot be made.
    """
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        got = "one with files in it" if any(out.iterdir()) else ""
        if not got:
            out.chmod(0o700)  # of an empty one that was there: names of files are patients' names
    except OSError as error:
        got = type(error).__name__
    if got:
        raise StudyError(
            expected="a new or empty folder", got=got, remedy="name another with --out"
        )


def means(scores: "Sequence[Score]", study: "Study") -> dict[str, dict[str, float]]:
    """Mean Dice by split of the run and region."""
    found: dict[str, dict[str, float]] = {}
    for split in sorted({s.split for s in scores}):
        rows = [s.dice for s in scores if s.split == split]
        values = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        found[split] = dict(zip(study.task.names, values, strict=True))
    return found


def _agreed(
    ledger: Path, records: "Sequence[Mapping[str, Any]]", job: Path | None
) -> "tuple[Study, SegmentingClient]":
    """The study and the client half of a run.

    Raises:
        PolyclinicError: either is missing, or of another run, or does not segment.
    """
    from polyclinic.jobs import load_client
    from polyclinic.study import load_study
    from polyclinic.worker.segmentation import SegmentingClient

    start = next((r for r in records if r.get("kind") == "start"), {})
    config = job / "app" / "config" if job else None
    study_at, client_at = (
        config / name if config else near(ledger, name) for name in ("study.json", CONFIG)
    )
    if study_at is None or client_at is None:
        raise CheckpointError(
            expected="study.json and config_fed_client.json of the run",
            got="a ledger without them",
            remedy="name the job that began the run with --job",
            owner="researcher",
        )
    study, client = load_study(study_at.parent), load_client(client_at.parent)
    if study.fingerprint() != start.get("study"):
        raise StudyError(
            expected="the run's study", got="another", remedy="name the job that began the run"
        )
    if not study.task.segments or not isinstance(client, SegmentingClient):
        raise StudyError(
            expected="a run that segments",
            got="one that predicts classes or labels",
            remedy="its scores are in 'polyclinic run report'",
        )
    return study, client


def _personal(settings: SiteSettings, study: "Study", client: object, run: str) -> dict[str, Any]:
    """What the site keeps of a run; {} when nothing.

    Raises:
        SiteError: it is of another study or algorithm.
        CheckpointError: it is torn or altered.
    """
    from polyclinic.flare.personal import PersonalStore  # imports no FLARE

    path = f"{type(client).__module__}.{type(client).__qualname__}"
    origin = {"study": study.fingerprint(), "client": path}
    return PersonalStore(Path(settings.storage), run, origin).load(sys.maxsize)


def _named(sequences: str) -> tuple[str, ...]:
    return tuple(sorted({s.strip() for s in sequences.split(",") if s.strip()}))


def _require_held(sequences: Sequence[str], settings: SiteSettings, study: "Study") -> None:
    """Pass sequences that the site holds.

    Raises:
        StudyError: another.
    """
    held = settings.cohort(study.name).held
    if not set(sequences) <= set(held):
        raise StudyError(
            expected=f"sequences among {', '.join(held)}, which the site holds",
            got=f"{len(set(sequences) - set(held))} other(s)",
            remedy="correct --sequences",
        )


def _show(facts: Mapping[str, Any]) -> None:
    """Print what was written; no name of a patient."""
    rows = [
        [split, *(value for value in by_region.values())]
        for split, by_region in facts["dice"].items()
    ]
    if rows:
        regions = list(next(iter(facts["dice"].values())))
        output.table("mean Dice", ["patients of", *regions], rows)
    told = f"wrote {facts['segmented']} map(s) to {facts['out']}"
    if facts["without_sequences"]:
        told += f"; {facts['without_sequences']} patient(s) have none of the sequences"
    output.screen.print(f"{told}. They stay at this site.", markup=False, soft_wrap=True)
