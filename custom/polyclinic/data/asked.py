"""What is read of a cohort: the modalities of a study that a site declares, and nothing else."""

from pathlib import Path

from polyclinic.data.column import Request
from polyclinic.data.manifest import Manifest
from polyclinic.errors import DataError, StudyError
from polyclinic.settings import CohortSource, SiteSettings
from polyclinic.study import Study


def requests(settings: SiteSettings, study: Study, manifest: Manifest) -> list[Request]:
    """What to read: the modalities of the study that the site declares, sorted.

    Raises:
        StudyError: the study reads the patient column or the label as a feature.
        DataError: the site trains on none of them, or offers to be the anchor without all.
    """
    source = settings.cohort(study.name)
    _require_features(source, study)
    held = set(source.held) & set(study.modalities)
    if source.anchor and held != set(study.modalities):
        raise DataError(
            expected="every modality of the study at a site that offers to be its anchor",
            got=f"{len(held)} of {len(study.modalities)}",
            remedy="take 'anchor' out of polyclinic.yaml, or declare the others",
        )
    if not held:
        raise DataError(
            expected="at least one modality of the study at this site",
            got=f"none of {len(study.modalities)}",
            remedy="declare it in polyclinic.yaml, or leave this study",
        )
    shared = sorted(set(source.modalities) & set(study.modalities))
    root, key = Path(source.root), source.record_column or source.patient_column
    ids = tuple(p.key for p in manifest.patients)
    cache = Path(settings.cache) if settings.cache else None
    return [
        Request(
            name=m,
            modality=study.modalities[m],
            source=source.modalities[m],
            root=root,
            key=key,
            ids=ids,
            seed=study.seed,
            cache=cache,
            manifest=source.manifest,
        )
        for m in shared
    ]


def _require_features(source: CohortSource, study: Study) -> None:
    """Refuse a panel with the id of a patient or record, or with what is to be predicted.

    Raises:
        StudyError: there is one, under its own name, as the column of a field's rule or as the
            moment from which a series counts.
    """
    refused = [(source.patient_column, "patient"), *((c, "label") for c in study.task.columns)]
    refused += [(source.record_column, "record")] if source.record_column else []
    for name, modality in study.modalities.items():
        read = {f for f in modality.features if f not in modality.fields}
        read |= {rule.column or f for f, rule in modality.fields.items()}
        read.add(str(modality.recipe.get("start", "")))  # hours that count from it tell it, too
        for column, what in refused:
            if column in read or column in modality.features:
                raise StudyError(
                    expected=f"measurements as features of '{name}'",
                    got=f"the {what} column",
                    remedy="leave that column out of the panel",
                )
