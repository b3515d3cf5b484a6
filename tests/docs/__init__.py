"""Tests of the documentation: pages, notebooks, docstrings, the site."""
