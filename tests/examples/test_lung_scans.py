"""CT from DICOM folders: what is read is what was drawn, and every fault is one line that names its file."""

import builtins
import shutil
import sys

import numpy as np
import pydicom
import pytest
from examples.lung_nodules.scans import read_scan, series_folders

from tests.examples.phantoms import ball_scan, by_position, change, written
from vitscope.errors import DatasetError

pytestmark = pytest.mark.integration


def test_the_volume_is_the_drawn_one_in_the_order_of_space_not_of_names(tmp_path):
    folder = written(tmp_path)
    scan = read_scan(folder)
    assert [file.name for file in by_position(folder)] != sorted(file.name for file in folder.glob("*.dcm"))
    assert np.array_equal(scan.volume, ball_scan().render())
    assert np.allclose(np.diff(scan.z), 2.0)
    assert scan.spacing == (0.8, 0.8)
    assert scan.patient == "PHANTOM-0001"


def test_every_written_file_is_valid_dicom_with_uids_of_its_own(tmp_path):
    files = [pydicom.dcmread(file) for file in written(tmp_path).glob("*.dcm")]
    uids = {one.SOPInstanceUID for one in files}
    assert len(uids) == len(files) == 20
    assert all(pydicom.uid.UID(uid).is_valid for uid in (*uids, files[0].SeriesInstanceUID, files[0].StudyInstanceUID))
    assert len({one.SeriesInstanceUID for one in files}) == 1
    assert all(one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID for one in files)


def test_slope_and_intercept_of_the_files_make_hounsfield_units(tmp_path):
    folder = written(tmp_path)
    change(folder, RescaleSlope=2, RescaleIntercept=-500)
    stored = ball_scan().render().astype(int) + 1024
    assert np.array_equal(read_scan(folder).volume, 2 * stored - 500)


def test_a_scan_stored_upside_down_is_turned_upright(tmp_path):
    plain = read_scan(written(tmp_path / "a"))
    turned = written(tmp_path / "b")
    change(turned, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    scan = read_scan(turned)
    assert plain.turned == (False, False)
    assert scan.turned == (True, True)
    assert np.array_equal(scan.upright(scan.volume), plain.volume[:, ::-1, ::-1])


def test_a_radiograph_is_passed_over(tmp_path):
    folder = written(tmp_path)
    change(folder, Modality="DX")
    assert read_scan(folder) is None


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope"])
def test_a_missing_tag_is_named_with_its_file(tmp_path, tag):
    folder = written(tmp_path)
    change(folder, every=False, **{tag: None})
    with pytest.raises(DatasetError, match=rf"1-001\.dcm: has no {tag}.*use the original DICOM files$"):
        read_scan(folder)


@pytest.mark.parametrize("keep", [40, 700, -500])
def test_a_truncated_file_is_named(tmp_path, keep):
    folder = written(tmp_path)
    file = folder / "1-003.dcm"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"1-003\.dcm: .*copy or download it again|1-003\.dcm: has no") as caught:
        read_scan(folder)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_dicom_is_named(tmp_path):
    folder = written(tmp_path)
    (folder / "1-002.dcm").write_text("<html>404</html>")
    with pytest.raises(DatasetError, match=r"1-002\.dcm: is no readable DICOM"):
        read_scan(folder)


def test_a_missing_slice_is_noticed(tmp_path):
    folder = written(tmp_path)
    by_position(folder)[7].unlink()
    with pytest.raises(DatasetError, match=r"no slice between z = .* apart"):
        read_scan(folder)


def test_two_slices_at_one_place_are_noticed(tmp_path):
    folder = written(tmp_path)
    shutil.copy(folder / "1-004.dcm", folder / "copy.dcm")
    with pytest.raises(DatasetError, match="two slices at z = "):
        read_scan(folder)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0.436]}, "not axial"),
        ({"PixelSpacing": [0, 0.8]}, "impossible"),
        ({"PixelSpacing": [0.7, 0.7]}, "another size, spacing or orientation"),
        ({"SeriesInstanceUID": "1.2.3"}, "slices of 2 series"),
    ],
)
def test_slices_that_do_not_go_together_are_refused(tmp_path, tags, words):
    folder = written(tmp_path)
    change(folder, every=False, **tags)
    with pytest.raises(DatasetError, match=words):
        read_scan(folder)


def test_folders_without_slices_say_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"no DICOM file .* as TCIA lays out LIDC-IDRI$"):
        series_folders(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        series_folders(tmp_path / "nowhere")


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    folder = written(tmp_path)
    found = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pydicom":
            raise ImportError("No module named 'pydicom'")
        return found(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pydicom")
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(DatasetError, match=r'pip install "vitscope\[medical\]"'):
        read_scan(folder)
