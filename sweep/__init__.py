"""Learning-rate-schedule searches: exact, comparable, recorded step by step."""

__version__ = "0.1.0"
