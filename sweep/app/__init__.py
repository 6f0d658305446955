"""Carry out searches, trainings, comparisons and previews: each takes a typed plan and returns a typed result.

Nothing here reads a command line, uses Hydra, or prints. This file imports nothing, because a preview needs neither
PyTorch nor MLflow.
"""
