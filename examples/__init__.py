"""Worked examples: each in its folder, with a README."""
