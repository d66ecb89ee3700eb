"""One method trained on site folders without FLARE, and scored at each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polyclinic.algorithms import presets, presets_scan
from polyclinic.algorithms.base import Client, Server, wants_anchor
from polyclinic.algorithms.presets import Method
from polyclinic.anchor_site import elected
from polyclinic.comparison.federation import run_federation
from polyclinic.comparison.missing import Missing
from polyclinic.data.batch import Patients, SplitName
from polyclinic.data.cohort import Cohort, merge, open_cohort
from polyclinic.errors import StudyError
from polyclinic.evaluation.metrics import scores_of
from polyclinic.exchange import State, Tensors
from polyclinic.models.weights import weights_at
from polyclinic.settings import SETTINGS_FILE, SiteSettings, load_settings
from polyclinic.study import Study

Trained = tuple[State, Tensors]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        sites: folders with a ``polyclinic.yaml``.
        methods: by name.
        seed: repeat r splits the patients and draws the weights by ``seed + r``.
        scored: patients that are scored; choices are made on ``validation``, never on ``test``.
        missing: what is hidden, besides, from the patients that are scored.
        pooled: score every site's model on all sites' patients, too.
    """

    sites: tuple[Path, ...]
    study: Study
    methods: dict[str, Method]
    repeats: int
    rounds: int
    seed: int
    workers: int = 2
    scored: SplitName = "test"
    missing: Missing | None = None
    pooled: bool = True

    def tasks(self) -> list[tuple[str, int]]:
        """Method and repeat of every run."""
        return [(m, r) for r in range(self.repeats) for m in self.methods]


def site_folders(given: Sequence[Path]) -> tuple[Path, ...]:
    """The site folders among these, and inside those that hold site folders.

    Raises:
        StudyError: a folder without any, or the same one twice.
    """
    found: list[Path] = []
    for folder in given:
        inside = sorted(p.parent for p in folder.glob(f"*/{SETTINGS_FILE}"))
        here = [folder] if (folder / SETTINGS_FILE).is_file() else inside
        if not here:
            raise StudyError(
                expected=f"a folder with {SETTINGS_FILE}",
                got=f"'{folder.name}' without one",
                remedy="name the site folders, or a folder that holds them",
            )
        found += here
    if len({p.resolve() for p in found}) != len(found):
        raise StudyError(expected="different sites", got="one twice", remedy="name each site once")
    return tuple(found)


def distinct_settings(folders: Sequence[Path]) -> list[SiteSettings]:
    """The settings of the sites.

    Raises:
        PolyclinicError: a file that cannot be read, or two sites of one name.
    """
    found = [load_settings(p / SETTINGS_FILE) for p in folders]
    if len({s.site for s in found}) != len(found):
        raise StudyError(
            expected="different site names",
            got="one twice",
            remedy=f"correct 'site' in {SETTINGS_FILE}",
        )
    return found


def open_sites(plan: Plan) -> dict[str, Cohort]:
    """The cohorts of all sites, by site name in order.

    Raises:
        PolyclinicError: a site that cannot take part, or two of one name.
    """
    opened = [open_cohort(s, plan.study) for s in distinct_settings(plan.sites)]
    return {c.site: c for c in sorted(opened, key=lambda c: c.site)}


def run_method(
    cohorts: dict[str, Cohort],
    study: Study,
    method: Method,
    rounds: int,
    seed: int,
    scored: SplitName = "test",
    missing: Missing | None = None,
    pooled: bool = True,
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Train one method once; site, test (``own`` or ``pooled``) and scores.

    ``pooled``: all sites' scored patients, restricted to the site's modalities, with the
    evaluation-only ones readable, unless it is left out. ``missing`` adds both with patients'
    modalities hidden.
    """
    rounds = method.rounds(rounds)
    drawn = method.adapted(study.model_copy(update={"seed": seed}))
    sites = {s: replace(c, study=drawn).resplit(seed) for s, c in cohorts.items()}
    client, server = method.halves()
    # The file is the one that the study's hash names, whoever brings it.
    places = {n: place for c in sites.values() for n, place in c.settings.weights.items()}
    with weights_at(places):
        trained = _pooled(sites, client, server, drawn, rounds, method) if method.pool else None
        if trained is None:
            result = run_federation(
                sites, client, server, drawn, rounds, anchor=anchor_of(sites, study)
            )
            trained = {
                s: (_slice(server, drawn, p, result.state), result.personal[s])
                for s, p in sites.items()
            }
    whole = [c.with_evaluation_only() for c in sites.values()]
    for site, patients in sites.items():
        tests: dict[str, Patients] = {"own": patients}
        if pooled:
            tests["pooled"] = merge(whole, patients.modalities)
        if missing is not None:
            tests |= missing.grid(tests, seed)
        for test, tested in tests.items():
            found = client.predict(tested, *trained[site], scored)
            yield site, test, scores_of(found, study.task)


def anchor_of(sites: Mapping[str, Cohort], study: Study) -> str:
    """The site that a run of FLARE with these would take as anchor site; "" where none offers."""
    offers = {s: c.modalities for s, c in sites.items() if c.settings.cohort(study.name).anchor}
    return elected(offers, study.modalities)


def _slice(server: Server, study: Study, patients: Patients, state: State) -> State:
    names = server.contract(study).names_for(patients.modalities, "state")
    return state.restricted(sorted(names))


def _pooled(
    sites: dict[str, Cohort],
    client: Client,
    server: Server,
    study: Study,
    rounds: int,
    method: Method,
) -> dict[str, Trained]:
    """One model per set of modalities on the pooled training patients, or one per site alone."""
    every = method.pool == "all"
    parts = [c.with_evaluation_only() if every else c for c in sites.values()]
    models: dict[tuple[str, ...], Trained] = {}
    found: dict[str, Trained] = {}
    for site, patients in sites.items():
        held = patients.modalities
        if method.pool == "own" or held not in models:
            pool: Patients = patients if method.pool == "own" else merge(parts, held)
            result = run_federation({pool.site: pool}, client, server, study, rounds)
            models[held] = result.state, result.personal[pool.site]
        found[site] = models[held]
    return found


def chosen_methods(names: Sequence[str], study: Study) -> dict[str, Method]:
    """Methods by name.

    Raises:
        StudyError: an unknown name, or one of another kind of task.
    """
    fit = [n for n in presets.METHODS if (n in presets_scan.SCANS) == study.task.segments]
    unknown = [n for n in names if n not in fit]
    if unknown or not names:
        raise StudyError(
            expected=f"methods for '{study.name}', among {', '.join(fit)}",
            got=", ".join(unknown) or "none",
            remedy="correct --methods",
        )
    return {n: presets.METHODS[n] for n in names}


def require_anchor(plan: Plan) -> None:
    """Find out before anything is trained whether a method lacks its anchor site.

    Raises:
        StudyError: a method wants one, and no site offers itself.
    """
    wanting = [n for n, m in plan.methods.items() if not m.pool and wants_anchor(m.halves()[1])]
    sources = {s.site: s.cohort(plan.study.name) for s in distinct_settings(plan.sites)}
    offers = {site: source.held for site, source in sources.items() if source.anchor}
    if wanting and not elected(offers, plan.study.modalities):
        raise StudyError(
            expected=f"a site with every modality and 'anchor: true', which {wanting[0]} needs",
            got="none",
            remedy="name such a site too, or leave the method out",
        )
