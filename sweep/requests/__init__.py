"""Turn overrides, as on the command line, into plans. The only package that uses Hydra and OmegaConf."""
