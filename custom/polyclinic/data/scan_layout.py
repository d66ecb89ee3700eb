"""Which files are the sequences and the mask of whom, where modalities share folders or do not.

Modalities that lie in one place are listed together, and with the mask if it lies there too: a
name is then told apart from the others of the folder, ``t1`` from ``t1ce`` and both from ``seg``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from polyclinic.data.column import Request
from polyclinic.data.dicom_layout import series_files
from polyclinic.data.files import Row, by_rows, files_in, stem
from polyclinic.data.identity import as_id
from polyclinic.data.nifti import SUFFIXES
from polyclinic.data.volume_layout import (
    VolumeFiles,
    by_sequence,
    names_of,
    require_folder,
    volume_files,
)
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


def scan_files(asked: Sequence[Request], mask: MaskSource | None) -> ScanFiles:
    """The files of the modalities asked for, and of the masks.

    Raises:
        DataError: no such folder, or its layout is not as declared.
        DataRejected: a table of files as a whole is refused.
    """
    places: dict[tuple[str, ...], list[Request]] = {}
    for request in asked:
        places.setdefault(_place(request.source), []).append(request)
    listings: dict[str, VolumeFiles] = {}
    masked: VolumeFiles | None = None
    for place, requests in places.items():
        there = mask if mask is not None and place == _place(_as_source(mask)) else None
        joint = _joint(requests, None if there is None or there.layout == "nnunet" else there)
        read = series_files if joint.source.layout == "dicom" else volume_files
        listed = listings[requests[0].name] = read(joint)
        if MASK in joint.modality.features:
            masked = listed
    unlisted = sum(listed.unlisted for listed in listings.values())
    if mask is not None and masked is None:
        masked = _masks(_mask_request(asked[0], mask))
        listings[MASK] = masked
        if _place(_as_source(mask)) in places:  # the images' listing has seen them, too
            unlisted -= sum(len(mine) for mine in masked.files.values())
        else:
            unlisted += masked.unlisted
    sequences: dict[str, dict[str, tuple[Path, ...]]] = {}
    for listed in listings.values():
        for pseudonym, mine in listed.files.items():
            found = {m: paths for m, paths in mine.items() if m != MASK}
            sequences.setdefault(pseudonym, {}).update(found)
    masks = {p: mine[MASK] for p, mine in masked.files.items() if MASK in mine} if masked else {}
    return ScanFiles(sequences, masks, listings, max(0, unlisted))


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


def _masks(request: Request) -> VolumeFiles:
    """The masks of a place of their own; nnU-Net's are ``labelsTr/patient.nii.gz``."""
    if request.source.layout != "nnunet":
        return volume_files(request)
    folder = request.root / request.source.folder
    require_folder(request, folder)
    names = names_of(request)
    word = next(iter(names.study))
    found = {
        name: path
        for name, path in files_in(folder, SUFFIXES).items()
        if _LABELS.fullmatch(path.relative_to(folder).parts[0])
    }
    rows = [
        Row("a file of the folder", as_id(stem(path.name, SUFFIXES)), name, word)
        for name, path in found.items()
    ]
    return by_sequence(request, folder, by_rows(request, folder, found, rows), names)
