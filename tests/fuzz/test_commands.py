"""Command lines of any words: exit code 0, 1 or 2, and never a traceback."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.fuzz.subjects.commands import LANGUAGES, run

from tests.fuzz.held import FEW, MANY, holds, line_of
from vitscope import VitscopeError
from vitscope.trace.budget import as_bytes


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("cases", [FEW, MANY])
def test_any_command_line_ends_with_an_exit_code_and_a_line(cases, tmp_path):
    counts = holds("commands", cases, tmp_path)
    assert min(counts.values()) > cases / 10


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(LANGUAGES)), st.text(st.sampled_from("ab0,:=.-_ \n'\"xGB\u0663\ud800"), max_size=12))
def test_any_phrase_in_an_option_is_understood_or_refused(language, phrase):
    line = line_of(lambda: LANGUAGES[language][0](phrase))
    assert not line or line.isprintable()


def test_a_memory_limit_beyond_all_numbers_is_refused():
    with pytest.raises(VitscopeError, match="give a number of bytes"):
        as_bytes("9" * 400)


def test_a_name_that_is_too_long_is_one_line(capsys):
    run(("bank", "info", "a" * 5000))
    run(("explain", "a" * 5000, "--model", "scenes", "--out", "b" * 5000))
