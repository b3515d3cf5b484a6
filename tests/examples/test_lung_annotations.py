"""The readers' XML, in the schema of LIDC-IDRI."""

import pytest
from examples.lung_nodules.annotations import CHARACTERISTICS, annotations_below, read_annotations

from tests.examples.phantoms import BALL, written
from vitscope.errors import DatasetError

pytestmark = pytest.mark.integration

NODULE = """<unblindedReadNodule>
<noduleID>{name}</noduleID>
{said}
<roi>
<imageZposition>-125.000000 </imageZposition>
<imageSOP_UID>1.3.6.1.4.1.14519.5.2.1.6279.6001.110383487652933113465768208719</imageSOP_UID>
<inclusion>{inclusion}</inclusion>
{edges}
</roi>
</unblindedReadNodule>"""
SAID = "<characteristics>" + "".join(f"<{name}>{{}}</{name}>\n" for name in CHARACTERISTICS) + "</characteristics>"

RATED = SAID.format(1, 2, 3, 4, 5, 4, 3, 2, 1)


def edges(*points):
    return "\n".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)


def message(*nodules, series="1.2.3"):
    """A file as those of LIDC-IDRI begin."""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<LidcReadMessage uid="1.3.6.1.4.1.14519.5.2.1.6279.6001.1307390687803.0" xmlns="http://www.nih.gov"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.nih.gov http://troll.rad.med.umich.edu/lidc/LidcReadMessage.xsd">
<ResponseHeader>
<Version>1.8.1</Version>
<SeriesInstanceUid>{series}</SeriesInstanceUid>
<StudyInstanceUID>1.2</StudyInstanceUID></ResponseHeader>
<readingSession><annotationVersion>3.12</annotationVersion>
<servicingRadiologistID>540461523</servicingRadiologistID>{"".join(nodules)}
<nonNodule><nonNoduleID>2241</nonNoduleID><imageZposition>-137.5</imageZposition><imageSOP_UID>1.3</imageSOP_UID>
<locus><xCoord>312</xCoord><yCoord>355</yCoord></locus></nonNodule></readingSession></LidcReadMessage>"""


def nodule(name="Nodule 001", said=RATED, inclusion="TRUE", points=None):
    return NODULE.format(
        name=name, said=said, inclusion=inclusion, edges=edges(*(points or [(1, 1), (5, 1), (5, 5), (1, 5)]))
    )


def test_a_nodule_of_the_schema_is_read(tmp_path):
    file = tmp_path / "069.xml"
    file.write_text(message(nodule()))
    (reading,) = read_annotations(file)
    assert reading.ratings["malignancy"] == 1
    assert reading.ratings["margin"] == 5
    assert reading.reader == 0
    assert reading.contours[0].points[1] == (5, 1)
    assert reading.contours[0].slice.endswith("208719")
    assert reading.contours[0].inclusion


def test_marks_without_characteristics_or_outline_are_passed_over(tmp_path):
    file = tmp_path / "a.xml"
    small = nodule(said="", points=[(7, 7)])
    empty = nodule(said="<characteristics></characteristics>")
    unrated = nodule(said=SAID.format(*[0] * 9))
    file.write_text(message(small, empty, unrated, nodule("kept")))
    assert [reading.name for reading in read_annotations(file)] == ["kept"]


def test_four_readers_of_a_phantom_are_read_with_their_slices(tmp_path):
    folder = written(tmp_path)
    readings = read_annotations(next(folder.glob("*.xml")))
    assert 2 <= len(readings) <= 4
    assert {reading.ratings["texture"] for reading in readings} <= {4, 5}
    assert {reading.ratings["calcification"] for reading in readings} == {6}
    # A ball of 14 mm in slices of 2 mm.
    assert all(6 <= len({contour.slice for contour in reading.contours}) <= 8 for reading in readings)
    assert BALL.malignancy == pytest.approx(1 + 7 / 13)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (message(nodule())[:-300], "is no complete XML"),
        (message(nodule(said=SAID.format(*[9] * 9))), "is 9, beyond 5"),
        (message(nodule(said=SAID.format(*["x"] * 9))), "not a whole number"),
        (message(nodule(inclusion="MAYBE")), "not TRUE or FALSE"),
        (message(nodule()).replace("imageSOP_UID", "image"), "no <imageSOP_UID>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + message(nodule())[38:], "declares a document type"),
    ],
)
def test_a_damaged_annotation_is_one_line_that_names_its_file(tmp_path, text, words):
    file = tmp_path / "bad.xml"
    file.write_text(text)
    with pytest.raises(DatasetError, match=words) as caught:
        read_annotations(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_annotations_are_found_anywhere_and_what_cannot_be_used_is_said(tmp_path):
    (tmp_path / "xml" / "157").mkdir(parents=True)
    (tmp_path / "xml" / "157" / "1.xml").write_text(message(series="1.2.3"))
    (tmp_path / "copy.xml").write_text(message(series="1.2.3"))
    (tmp_path / "radiograph.xml").write_text("<IdriReadMessage/>")
    (tmp_path / "zbroken.xml").write_text("<LidcReadMessage>")
    (tmp_path / "other.xml").write_text(message(nodule(), series="1.2.3"))
    found, failures = annotations_below(tmp_path)
    assert found == {"1.2.3": tmp_path / "copy.xml"}
    assert len(failures) == 2
    assert "other.xml: annotates the same series as" in failures[0]
    assert "zbroken.xml: is no complete XML" in failures[1]
