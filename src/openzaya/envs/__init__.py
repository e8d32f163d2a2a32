"""Environments: procedural problems with verifiers. One environment, one file."""
