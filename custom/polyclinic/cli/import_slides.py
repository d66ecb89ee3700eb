"""``polyclinic data import slides``: whole-slide images made into bags of features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyclinic.cli import output
from polyclinic.settings import SETTINGS_FILE, load_settings

if TYPE_CHECKING:
    from polyclinic.importing.slide_outcome import SlideOutcome
    from polyclinic.importing.slide_store import Layout, Store
    from polyclinic.importing.slides import SlideReport

# By reason code, what helps beyond another scan.
_REMEDIES = {"no_mpp": "; state it with --mpp-csv (columns wsi,mpp)"}


def import_slides(
    folder: Annotated[Path, typer.Argument(help="Folder with SVS, NDPI, MRXS, SCN, TIFF, DICOM.")],
    out: Annotated[Path, typer.Argument(help="The site's folder, where polyclinic.yaml lies.")],
    weights: Annotated[
        str,
        typer.Option(help="File of ResNet-34 weights, IMAGENET1K_V1 (torch cache), random:SEED."),
    ],
    sha256: Annotated[str, typer.Option(help="That the weights file must have.")] = "",
    modality: Annotated[str, typer.Option(help="Folder inside OUT, and the modality's name.")] = (
        "wsi"
    ),
    layout: Annotated[str, typer.Option(help="trident or stamp.")] = "trident",
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of a tile.")] = 0.5,
    tile_px: Annotated[int, typer.Option(help="Edge of a tile in pixels.")] = 224,
    overlap_px: Annotated[int, typer.Option(help="Pixels that neighbours share.")] = 0,
    min_tissue: Annotated[float, typer.Option(help="Share of a tile that is tissue.")] = 0.25,
    mpp_csv: Annotated[
        Path | None, typer.Option(help="CSV wsi,mpp for slides that do not state their mpp.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV patient_id,slide_id; else slides are named for them.")
    ] = None,
    keep_names: Annotated[
        bool, typer.Option("--keep-names", help="Names are pseudonyms already: keep them.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Draw tissue and tiles of each slide.")] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, max=64, help="That read tiles.")] = 2,
    format: output.FormatOption = "txt",  # noqa: A002
) -> None:
    """Tissue, tiles and frozen features of each slide (exit 1 when one was set aside)."""
    # They import torch; 'polyclinic data --help' does not.
    from polyclinic.data.tiles import Tiling
    from polyclinic.importing import slides
    from polyclinic.models.patch_trunk import extractor

    with output.guarded(format):
        wanted = slides.SlideImport(
            folder=folder,
            site=out,
            storage=_storage(out),
            modality=modality,
            tiling=Tiling(mpp=mpp, tile_px=tile_px, overlap_px=overlap_px, min_tissue=min_tissue),
            layout=_layout(layout),
            mpp_table=mpp_csv,
            patients=patients,
            keep_names=keep_names,
            pictures=pictures,
            threads=threads,
        )
        trunk = extractor(weights, sha256, device)
        with output.progress("slides", None) as advance:

            def told(outcome: "SlideOutcome", total: int) -> None:
                advance(1)
                if output.errors.is_terminal:
                    output.errors.print(_line(outcome), markup=False)

            report = slides.import_slides(wanted, trunk, told)
        data = _data(report, modality)
        ok = not report.count("refused")
        output.emit(data, text=lambda: _print(report, data), format=format, ok=ok)


def _storage(out: Path) -> Path:
    """The site's storage: by its ``polyclinic.yaml``, else ``state`` beside it."""
    if (out / SETTINGS_FILE).is_file():
        return Path(load_settings(out / SETTINGS_FILE).storage)
    return out / "state"


def _layout(text: str) -> "Layout":
    """One of the layouts.

    Raises:
        typer.BadParameter: another word.
    """
    known: dict[str, Layout] = {"trident": "trident", "stamp": "stamp"}
    if text in known:
        return known[text]
    raise typer.BadParameter("is trident or stamp", param_hint="--layout")


def _line(outcome: "SlideOutcome") -> str:
    """One slide in words."""
    if outcome.state == "refused":
        return f"set aside: {outcome.reason} ({outcome.reference})"
    return f"{outcome.state} {outcome.slide}: {outcome.tiles} tiles"


def declaration(store: "Store", modality: str, root: Path) -> str:
    """The line of ``polyclinic.yaml`` that declares these features."""
    folder = store.base.relative_to(root).as_posix()
    facts = f"layout: {store.layout}, extractor: {store.extractor.name}, mpp: {store.tiling.mpp:g}"
    return f"{modality}: {{kind: bag, folder: {folder}, {facts}}}"


def is_declared(store: "Store", modality: str, root: Path) -> bool:
    """Whether a cohort of the site's ``polyclinic.yaml`` declares these features already."""
    if not (root / SETTINGS_FILE).is_file():
        return False
    wanted = (store.base.resolve(), store.layout, store.extractor.name, store.tiling.mpp)
    for cohort in load_settings(root / SETTINGS_FILE).cohorts.values():
        said = cohort.modalities.get(modality)
        if said is not None:
            folder = (Path(cohort.root) / said.folder).resolve()
            if (folder, said.layout, said.extractor, said.mpp) == wanted:
                return True
    return False


def _data(report: "SlideReport", modality: str) -> dict[str, Any]:
    """The report, JSON-able."""
    store = report.store
    reasons = [o.reason for o in report.outcomes if o.state == "refused"]
    return {
        "slides": {s: report.count(s) for s in ("made", "kept", "refused")},
        "refused": {r: reasons.count(r) for r in sorted(set(reasons))},
        "tiles": sum(o.tiles for o in report.outcomes),
        "extractor": store.extractor.name,
        "weights_sha256": store.extractor.sha256,
        "tile_size_um": store.tiling.tile_um,
        "share_of_time_in_the_network": round(report.trunk_share, 3),
        "declaration": declaration(store, modality, store.root.parent),
        "declared": is_declared(store, modality, store.root.parent),
        "study": {
            "kind": "bag",
            "dim": store.extractor.width,
            "extractor": store.extractor.name,
            "recipe": {"mpp": store.tiling.mpp, "tile_px": store.tiling.tile_px},
        },
    }


def _print(report: "SlideReport", data: dict[str, Any]) -> None:
    """The report for a person."""
    made, kept, refused = (report.count(s) for s in ("made", "kept", "refused"))
    lines = [
        f"{made} made, {kept} kept from an earlier run, {refused} set aside; {data['tiles']} tiles",
        *(
            f"set aside: {n} × {reason}{_REMEDIES.get(reason, '')}"
            for reason, n in data["refused"].items()
        ),
        f"features by {data['extractor']}, tiles of {data['tile_size_um']:g} micrometres",
    ]
    if not data["declared"]:
        lines.append(f"in polyclinic.yaml: {data['declaration']}")
    if report.count("made"):
        lines.insert(1, f"{data['share_of_time_in_the_network']:.0%} of the time in the network")
    output.screen.print("\n".join(lines), markup=False, soft_wrap=True)
