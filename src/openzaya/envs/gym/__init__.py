"""The gym: one folder a family, one file an environment, found by its name."""
