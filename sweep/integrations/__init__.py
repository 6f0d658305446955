"""Provides callbacks that let trainers of other libraries train a run. Each module requires its library."""
