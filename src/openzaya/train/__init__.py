"""Supervised training: batches, loss, one step, one stage, checkpoints."""
