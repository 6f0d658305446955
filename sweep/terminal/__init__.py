"""Show messages and progress in a terminal or a notebook, and handle interrupts."""
