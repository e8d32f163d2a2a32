"""Tasks small enough for the bundled nano model, each with a procedural teacher.

All arithmetic is on single digits modulo 10, so that one small table serves every task and a
1.9M-parameter model can learn them in minutes. Deviation: D-015, D-016.
"""
