"""Broken input, by the hundred thousand: `python -m tools.fuzz --cases 100000`; see docs/reliability.md."""
