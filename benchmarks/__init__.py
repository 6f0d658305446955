"""What the speed claims are measured with: `make bench`, `make bench-gpu`."""
