"""What is said of the dependencies' known faults, and above all that nothing was asked."""

from __future__ import annotations

import json

from tools.audit import NOT_ASKED, verdict


def said(*dependencies):
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


FINE = {"name": "numpy", "version": "2.0", "vulns": []}
BAD = {"name": "pillow", "version": "9.0", "vulns": [{"id": "CVE-1"}]}
UNKNOWN = {"name": "timm", "skip_reason": "Dependency not found on PyPI and could not be audited: timm (1.0)"}
OURS = {"name": "vitscope", "skip_reason": "distribution marked as editable"}


def test_no_known_fault():
    assert verdict(0, said(FINE, OURS), "") == (0, ["1 packages were looked up, and no fault is known"])


def test_a_known_fault():
    assert verdict(1, said(FINE, BAD), "") == (1, ["pillow 9.0: CVE-1"])


def test_some_that_could_not_be_looked_up():
    code, (line,) = verdict(0, said(FINE, UNKNOWN), "")
    assert code == 1
    assert line.startswith("timm: Dependency not found")


def test_a_service_that_is_not_there_is_no_pass():
    """In each way that it shows: an error, or every package unknown."""
    for answer, errors in (
        ("", "ConnectionError: no route to host"),
        (said(UNKNOWN, OURS), ""),
        ("null", ""),
        ("", ""),
    ):
        code, (line,) = verdict(1, answer, errors)
        assert code == NOT_ASKED
        assert line.startswith("NOT AUDITED: the vulnerability service cannot be reached from here")
