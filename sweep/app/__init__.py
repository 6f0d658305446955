"""Carries out searches, trainings, comparisons and previews: each takes a typed plan and returns a typed result.

This package does not read a command line, use Hydra, or print. This file imports nothing, because a preview needs
neither PyTorch nor MLflow.
"""
