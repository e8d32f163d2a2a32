"""Vocabulary shared by every package: errors, settings, records, seams, randomness, metrics."""
