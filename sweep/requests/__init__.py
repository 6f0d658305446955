"""Requests: overrides, as on the command line, become plans. The only package that knows Hydra and OmegaConf."""
