"""Converts overrides, as on the command line, to plans. Only this package uses Hydra and OmegaConf."""
