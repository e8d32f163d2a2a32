"""PipelineRL: actors fill a buffer with groups, the trainer empties it, weights flow back.

In one process, actor and trainer take turns; `rl.stages` drives them.

Paper: IV-B1(a).
"""
