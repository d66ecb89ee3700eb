"""What happens to each attribute of a DICOM file that is kept; every other attribute is removed.

The list is an allow-list, far shorter than what PS3.15 Annex E (Basic Application Level
Confidentiality Profile) lets pass: what pixels need to be read, measured and put in order, and
age and sex ("Retain Patient Characteristics Option"). Descriptions, dates, times, devices,
institutions, persons, private attributes, overlays, curves and attributes of tomorrow are removed
since they are not on it. An attribute on it is kept only if its value is of the expected form: a
number, or a code of a closed list; a name in a code's place is removed, too.
"""

from collections.abc import Mapping
from typing import Literal

Action = Literal["keep", "code", "uid", "empty", "patient", "age", "items", "pixels"]


def _each(action: Action, keywords: str) -> dict[str, Action]:
    return dict.fromkeys(keywords.split(), action)


_PIXELS = """Rows Columns SamplesPerPixel PlanarConfiguration NumberOfFrames BitsAllocated
BitsStored HighBit PixelRepresentation PixelAspectRatio SmallestImagePixelValue
LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit RedPaletteColorLookupTableDescriptor
GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor
RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
RescaleIntercept RescaleSlope WindowCenter WindowWidth LUTDescriptor LUTData
PixelIntensityRelationshipSign LossyImageCompressionRatio"""
_GEOMETRY = """PixelSpacing ImagerPixelSpacing NominalScannedPixelSpacing
EstimatedRadiographicMagnificationFactor DistanceSourceToDetector DistanceSourceToPatient
SliceThickness SpacingBetweenSlices ImagePositionPatient ImageOrientationPatient SliceLocation
InstanceNumber"""
_ACQUISITION = """KVP EchoTime RepetitionTime InversionTime FlipAngle MagneticFieldStrength
EchoTrainLength EchoNumbers NumberOfAverages DiffusionBValue"""
_CODES = """Modality ImageType PhotometricInterpretation RescaleType VOILUTFunction
PresentationLUTShape PixelIntensityRelationship LossyImageCompression LossyImageCompressionMethod
ModalityLUTType ConversionType ViewPosition Laterality ImageLaterality PatientPosition
PatientOrientation BodyPartExamined BurnedInAnnotation PatientSex ScanningSequence SequenceVariant
MRAcquisitionType"""

ACTIONS: Mapping[str, Action] = {
    **_each("keep", _PIXELS),
    **_each("keep", _GEOMETRY),
    **_each("keep", _ACQUISITION),
    **_each("code", _CODES),
    **_each("uid", "SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID"),
    # Attributes that an image must have, if only blank.
    **_each(
        "empty",
        "StudyDate StudyTime AccessionNumber StudyID ReferringPhysicianName PatientBirthDate",
    ),
    **_each("patient", "PatientID PatientName"),
    **_each("age", "PatientAge"),
    **_each("items", "VOILUTSequence ModalityLUTSequence"),
    **_each("pixels", "PixelData"),
}
# The items of a sequence that is kept hold these and nothing else.
ITEM_ACTIONS: Mapping[str, Action] = {
    **_each("keep", "LUTDescriptor LUTData"),
    **_each("code", "ModalityLUTType"),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIDES = _words("L R B U")
CODES: Mapping[str, frozenset[str]] = {
    "Modality": _words("CR DX DR RG MG CT MR PT NM XA RF IO PX SC OT US XC ES GM SM"),
    "ImageType": _words(
        "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER OTHER SCREEN SAVE POST_PROCESSED MPR"
        " REFORMATTED PROJECTION M SE GR IR FFE NORM DIS2D DIS3D ND M_SE M_IR M_FFE NONE MFSPLIT"
        " FM FS DIFFUSION ADC TRACEW EPI PROCESSED VOLUME RESAMPLED IMAGE ADDITION POSTEROANTERIOR"
    )
    | {"SCREEN SAVE"},
    "PhotometricInterpretation": _words(
        "MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_PARTIAL_422 YBR_PARTIAL_420"
        " YBR_ICT YBR_RCT ARGB HSV CMYK"
    )
    | {"PALETTE COLOR"},
    "RescaleType": _words("HU US OD Z_EFF ED EDW HU_MOD PCT MGML"),
    "VOILUTFunction": _words("LINEAR LINEAR_EXACT SIGMOID"),
    "PresentationLUTShape": _words("IDENTITY INVERSE"),
    "PixelIntensityRelationship": _words("LIN LOG DISP SQRT"),
    "LossyImageCompression": _words("00 01"),
    "LossyImageCompressionMethod": _words("ISO_10918_1 ISO_14495_1 ISO_15444_1 ISO_15444_15"),
    "ModalityLUTType": _words("OD HU US MGML Z_EFF ED EDW HU_MOD PCT"),
    "ConversionType": _words("DV DI DF WSD SD SI DRW SYN"),
    "ViewPosition": _words("AP PA LL RL LAT LATERAL RLD LLD RLO LLO CC MLO ML LM OBLIQUE SUPINE"),
    "Laterality": _SIDES,
    "ImageLaterality": _SIDES,
    "PatientPosition": _words("HFP HFS HFDR HFDL FFP FFS FFDR FFDL LFP LFS RFP RFS SITTING"),
    # Combinations such as AFL of anterior, posterior, right, left, head and foot.
    "PatientOrientation": _words("A P R L H F")
    | {a + b for a in "APRLHF" for b in "APRLHF"}
    | {a + b + c for a in "APRLHF" for b in "APRLHF" for c in "APRLHF"},
    "BodyPartExamined": _words(
        "CHEST THORAX LUNG HEART HEAD BRAIN SKULL NECK ABDOMEN PELVIS SPINE CSPINE TSPINE LSPINE"
        " BREAST LIVER KIDNEY PROSTATE KNEE HIP SHOULDER HAND FOOT WHOLEBODY EXTREMITY"
    ),
    "BurnedInAnnotation": _words("YES NO"),
    "PatientSex": _words("M F O"),
    "ScanningSequence": _words("SE IR GR EP RM"),
    "SequenceVariant": _words("SK MTC SS TRSS SP MP OSP NONE"),
    "MRAcquisitionType": _words("1D 2D 3D"),
}
