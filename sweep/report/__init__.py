"""Figures, tables and pages, from what the reader gives.

The package imports nothing by itself: a preview needs neither SciPy nor Jinja.
"""
