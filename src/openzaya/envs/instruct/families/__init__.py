"""Families of constraints: every `Constraint` class in a file here is found by its name."""
