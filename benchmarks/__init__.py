"""Measures the speed claims: `make bench`, `make bench-gpu`."""
