"""Which files are the sequences and the mask of whom, where modalities share folders or do not.

Modalities that lie in one place are listed together, and with the mask if it lies there too: a
name is then told apart from the others of the folder, ``t1`` from ``t1ce`` and both from ``seg``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from polyclinic.data.column import Request
from polyclinic.data.datalist import SPLITS, channels, datalist_rows, read_object
from polyclinic.data.dicom_layout import series_files
from polyclinic.data.files import Row, by_rows, files_in, stem
from polyclinic.data.identity import as_id
from polyclinic.data.nifti import SUFFIXES
from polyclinic.data.quarantine import Entry
from polyclinic.data.volume_layout import (
    VolumeFiles,
    by_sequence,
    names_of,
    require_folder,
    volume_files,
)
from polyclinic.errors import DataError
from polyclinic.settings import MaskSource, Source
from polyclinic.study import Modality

# No modality can be called so: a name has no blank.
MASK = "the mask"
_LABELS = re.compile(r"labels(Tr|Ts)?")


@dataclass(frozen=True)
class ScanFiles:
    """The files of each patient.

    Attributes:
        sequences: by patient of the cohort and modality.
        masks: by patient of the cohort.
        listings: what was found in each place, by one of its modalities.
        unlisted: files that are neither a declared sequence nor a mask.
    """

    sequences: Mapping[str, Mapping[str, tuple[Path, ...]]] = field(repr=False)
    masks: Mapping[str, tuple[Path, ...]] = field(repr=False)
    listings: Mapping[str, VolumeFiles] = field(repr=False)
    unlisted: int = 0


def scan_files(
    asked: Sequence[Request], mask: MaskSource | None, *, masks: bool = True
) -> ScanFiles:
    """The files of the modalities asked for, and of the masks.

    Args:
        masks: whether masks are looked for where there is nothing else; those that lie among
            sequences are told apart from them in any case.

    Raises:
        DataError: no such folder, or its layout is not as declared.
        DataRejected: a table of files as a whole is refused.
    """
    places: dict[tuple[str, ...], list[Request]] = {}
    for request in asked:
        places.setdefault(_place(request.source), []).append(request)
    own = None if mask is None else _place(_as_source(mask))
    among = own in places and mask is not None and not _apart(mask)
    listings: dict[str, VolumeFiles] = {}
    masked = VolumeFiles({})
    for place, requests in places.items():
        joint = _joint(requests, mask if among and place == own else None)
        _require_order(joint)
        read = series_files if joint.source.layout == "dicom" else volume_files
        listed = listings[requests[0].name] = read(joint)
        if MASK in joint.modality.features:
            masked = listed
    unlisted = sum(listed.unlisted for listed in listings.values())
    if mask is not None and masks and not among:
        masked = listings[MASK] = _masks(_mask_request(asked[0], mask))
        if own in places:  # the images' listing has seen them, too
            unlisted -= sum(len(mine) for mine in masked.files.values())
        else:
            unlisted += masked.unlisted
    sequences: dict[str, dict[str, tuple[Path, ...]]] = {}
    for listed in listings.values():
        for pseudonym, mine in listed.files.items():
            found = {m: paths for m, paths in mine.items() if m != MASK}
            sequences.setdefault(pseudonym, {}).update(found)
    marked = {p: mine[MASK] for p, mine in masked.files.items() if MASK in mine}
    return ScanFiles(sequences, marked, listings, max(0, unlisted))


def _place(source: Source) -> tuple[str, ...]:
    """What must be equal for two modalities to be listed together."""
    return (source.folder, source.layout, source.files, source.burned_in)


def _as_source(mask: MaskSource) -> Source:
    """The masks as a sequence of their own."""
    words = {MASK: mask.name}
    return Source(
        kind="volume", folder=mask.folder, layout=mask.layout, files=mask.files, sequences=words
    )


def _joint(requests: Sequence[Request], mask: MaskSource | None) -> Request:
    """One request for modalities of one place, each called by its own name."""
    first = requests[0]
    words = {
        r.name: r.source.sequences.get(feature, feature)
        for r in requests
        for feature in r.modality.features
    }
    if mask is not None:
        words[MASK] = mask.name
    return replace(
        first,
        name=first.name if len(requests) == 1 else "scan",
        modality=Modality(kind="volume", features=tuple(words)),
        source=first.source.model_copy(update={"sequences": words}),
    )


def _mask_request(request: Request, mask: MaskSource) -> Request:
    """What is asked for where masks lie in a place of their own."""
    modality = Modality(kind="volume", features=(MASK,))
    source = _as_source(mask)
    return replace(
        request, name="mask", modality=modality, source=source, stranger=lambda pseudonym: None
    )


def _apart(mask: MaskSource) -> bool:
    """Whether masks are listed in another way than the sequences beside them."""
    return mask.layout == "nnunet" or _is_datalist(mask.files)


def _is_datalist(files: str) -> bool:
    return files.lower().endswith(".json")


def _require_order(joint: Request) -> None:
    """Refuse a datalist whose channels have no names: modalities of a study have no order.

    Raises:
        DataError: it has none.
    """
    path = joint.root / joint.source.files
    if len(joint.modality.features) < 2 or not _is_datalist(joint.source.files):
        return
    content = read_object(path)
    items = [i for s in SPLITS if isinstance(content.get(s), list) for i in content[s]]
    ordered = any(isinstance(i.get("image") if isinstance(i, dict) else i, list) for i in items)
    if ordered and not channels(content):
        raise DataError(
            expected="'channel_names' in the datalist, or images by name",
            got="images in an order that nothing explains",
            remedy="add channel_names to it",
        )


def _masks(request: Request) -> VolumeFiles:
    """The masks of a place of their own: named or listed like a sequence; ``label`` of a datalist;
    ``labelsTr/patient.nii.gz`` of nnU-Net."""
    if request.source.layout != "nnunet" and not _is_datalist(request.source.files):
        return volume_files(request)
    folder = request.root / request.source.folder
    require_folder(request, folder)
    names = names_of(request)
    word = next(iter(names.study))
    found, entries = files_in(folder, SUFFIXES), list[Entry]()
    if request.source.layout == "nnunet":
        found = {
            name: path
            for name, path in found.items()
            if _LABELS.fullmatch(path.relative_to(folder).parts[0])
        }
        whose = {name: as_id(stem(path.name, SUFFIXES)) for name, path in found.items()}
        rows = [Row("a file of the folder", whose[name], name, word) for name in found]
    else:
        table = request.root / request.source.files
        rows, entries = datalist_rows(table, request, key="label")
    return by_sequence(request, folder, by_rows(request, folder, found, rows, entries), names)
