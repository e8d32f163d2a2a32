"""The pipeline: actors fill a buffer with groups, the trainer empties it, weights flow back."""
