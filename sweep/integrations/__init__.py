"""Callbacks with which the trainers of other libraries train a run. Each module needs its library."""
