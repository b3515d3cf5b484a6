"""Writing phantoms as TCIA lays out LIDC-IDRI: a folder of DICOM slices a series, and four readers' XML beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import SubElement

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage

from examples.lung_nodules.annotations import CHARACTERISTICS
from examples.lung_nodules.phantom import Nodule, Scan, random_scan
from vitscope.datasets.files import need

READERS = 4
SEEN = 0.92
"""How likely a reader marks a nodule."""

TRUTH = "truth.json"
"""What was drawn, beside each series; the example's reader does not look at it."""


def write_tree(
    root: Path, patients: int, seed: int = 0, nodules: int = 4, progress: Callable[[int], object] = lambda done: None
) -> Path:
    """Write phantoms of `patients` patients below `root`, the same for the same seed.

    Args:
        root: made where it is missing.
        patients: how many, a scan each.
        seed: of all that is drawn.
        nodules: in each scan, 1 to 4.
        progress: called with the number of scans written.

    Raises:
        DatasetError: the extra `medical` is missing.
    """
    for number in range(1, patients + 1):
        scan = random_scan(seed * 100_000 + number, nodules)
        write_scan(root, number, scan)
        progress(number)
    return root


def write_scan(root: Path, number: int, scan: Scan) -> Path:
    """Write one phantom as patient `number`; the folder of its series."""
    rng = np.random.default_rng([scan.seed, 6])
    uid = need("pydicom", "medical", "CT scans").uid.generate_uid
    study, series = (uid(entropy_srcs=[f"vitscope phantom {scan.seed} {what}"]) for what in ("study", "series"))
    patient = f"PHANTOM-{number:04d}"
    folder = root / patient / f"01-01-2000-NA-NA-{number:05d}" / f"{3000000 + number}.000000-NA-{number:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):  # of an earlier run
        old.unlink()
    volume = scan.render()
    uids = [uid(entropy_srcs=[f"vitscope phantom {scan.seed} slice {index}"]) for index in range(len(volume))]
    start = float(rng.integers(-300, -100))
    names = rng.permutation(len(volume)) + 1  # in LIDC-IDRI too, the files' names are not in the slices' order
    for index, pixels in enumerate(volume):
        place = {
            "SOPInstanceUID": uids[index],
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "PatientID": patient,
            "PatientName": patient,
            "InstanceNumber": int(names[index]),
            "ImagePositionPatient": [-40.0, -40.0, start + index * scan.spacing[0]],
            "PixelSpacing": [round(step, 6) for step in scan.spacing[1:]],
            "SliceThickness": scan.spacing[0],
        }
        _write_slice(folder / f"1-{names[index]:03d}.dcm", pixels, place)
    z = [start + index * scan.spacing[0] for index in range(len(volume))]
    _write_readings(folder / f"{number:03d}.xml", scan, series, study, list(zip(uids, z, strict=True)), rng)
    (folder / TRUTH).write_text(json.dumps(asdict(scan), indent=1))
    return folder


def ratings(nodule: Nodule, rng: np.random.Generator | None = None) -> dict[str, int]:
    """What a reader says of a nodule; without a generator, what one says who never errs."""

    def degree(share: float) -> int:
        noise = 0.0 if rng is None else 0.35 * rng.standard_normal()
        return int(np.clip(np.round(1 + 4 * share + noise), 1, 5))

    contrast = nodule.texture * (0.4 + 0.6 * nodule.margin)
    return {
        "subtlety": degree(0.4 * contrast + 0.6 * (nodule.diameter - 7) / 13),
        "internalStructure": 1,
        "calcification": 3 if nodule.calcified else 6,
        "sphericity": degree(1 - 0.5 * nodule.lobulation),
        "margin": degree(nodule.margin),
        "lobulation": degree(nodule.lobulation),
        "spiculation": degree(nodule.spiculation),
        "texture": degree(nodule.texture),
        "malignancy": degree((nodule.malignancy - 1) / 4),
    }


def outlines(inside: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The outlines of a mask (y x) as LIDC draws them: (column, row) of the first pixels outside, in order."""
    around = ndimage.binary_dilation(inside)
    found = []
    for line in contour_generator(z=np.pad(around, 1).astype(float)).lines(0.5):
        points: list[tuple[int, int]] = []
        for x, y in np.asarray(line) - 1:
            # A vertex lies half-way between a pixel of `around` and one that is none.
            ends = {(int(np.floor(x)), int(np.floor(y))), (int(np.ceil(x)), int(np.ceil(y)))}
            (point,) = (p for p in ends if _has(around, p))
            if not points or points[-1] != point:
                points.append(point)
        found.append(points[:-1] if points[0] == points[-1] else points)
    return found


def _has(mask: NDArray[np.bool_], point: tuple[int, int]) -> bool:
    x, y = point
    return 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and bool(mask[y, x])


def _write_slice(file: Path, pixels: NDArray[np.int16], place: Mapping[str, Any]) -> None:
    pydicom = need("pydicom", "medical", "CT scans")
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = place["SOPInstanceUID"]
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    slice_ = pydicom.dataset.FileDataset(str(file), {}, file_meta=meta, preamble=b"\0" * 128)
    fixed = {
        "SOPClassUID": pydicom.uid.CTImageStorage,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Manufacturer": "vitscope phantom, no patient",
        "StudyDate": "20000101",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
    }
    for name, value in (fixed | dict(place)).items():
        setattr(slice_, name, value)
    slice_.PixelData = (pixels + 1024).astype("<i2").tobytes()
    slice_.save_as(file, enforce_file_format=True)


def _write_readings(
    file: Path, scan: Scan, series: str, study: str, slices: list[tuple[str, float]], rng: np.random.Generator
) -> None:
    message = ElementTree.Element("LidcReadMessage", {"xmlns": "http://www.nih.gov", "uid": f"{series}.0"})
    header = SubElement(message, "ResponseHeader")
    for tag, text in (
        ("Version", "1.8.1"),
        ("TaskDescription", "Second unblinded read"),
        ("SeriesInstanceUid", series),
        ("StudyInstanceUID", study),
    ):
        SubElement(header, tag).text = text
    for reader in range(READERS):
        session = SubElement(message, "readingSession")
        SubElement(session, "annotationVersion").text = "3.12"
        SubElement(session, "servicingRadiologistID").text = f"phantom reader {reader}"
        for number, nodule in enumerate(scan.nodules):
            if rng.uniform() < SEEN:
                _write_nodule(session, f"Nodule {number + 1:03d}", scan, nodule, slices, rng)
        _write_non_nodule(session, scan, slices, rng)
    ElementTree.indent(message, "")
    ElementTree.ElementTree(message).write(file, encoding="UTF-8", xml_declaration=True)


def _write_nodule(
    session: ElementTree.Element,
    name: str,
    scan: Scan,
    nodule: Nodule,
    slices: list[tuple[str, float]],
    rng: np.random.Generator,
) -> None:
    """A reader's outlines: of the body, spikes not counted, a little too wide or too tight."""
    entry = SubElement(session, "unblindedReadNodule")
    SubElement(entry, "noduleID").text = name
    said = SubElement(entry, "characteristics")
    rated = ratings(nodule, rng)
    for characteristic in CHARACTERISTICS:
        SubElement(said, characteristic).text = str(rated[characteristic])
    (along, down, across), offsets = scan.around(nodule, nodule.diameter * 0.75 + 2.5)
    inside = nodule.body(offsets) > rng.normal(0, 0.35)
    for index, plane in zip(range(along.start, along.stop), inside, strict=True):
        if not plane.any():
            continue
        for outline in outlines(np.pad(plane, 1)):
            roi = SubElement(entry, "roi")
            SubElement(roi, "imageZposition").text = f"{slices[index][1]:.6f}"
            SubElement(roi, "imageSOP_UID").text = slices[index][0]
            SubElement(roi, "inclusion").text = "TRUE"
            for x, y in outline:
                edge = SubElement(roi, "edgeMap")
                SubElement(edge, "xCoord").text = str(x - 1 + across.start)
                SubElement(edge, "yCoord").text = str(y - 1 + down.start)


def _write_non_nodule(
    session: ElementTree.Element, scan: Scan, slices: list[tuple[str, float]], rng: np.random.Generator
) -> None:
    """A mark of something that is no nodule, as readers make them: one point."""
    uid, z = slices[int(rng.integers(len(slices)))]
    entry = SubElement(session, "nonNodule")
    SubElement(entry, "nonNoduleID").text = "1"
    SubElement(entry, "imageZposition").text = f"{z:.6f}"
    SubElement(entry, "imageSOP_UID").text = uid
    locus = SubElement(entry, "locus")
    SubElement(locus, "xCoord").text = str(int(rng.integers(scan.shape[2])))
    SubElement(locus, "yCoord").text = str(int(rng.integers(scan.shape[1])))
