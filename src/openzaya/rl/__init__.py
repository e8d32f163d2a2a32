"""Reinforcement learning: the spine (formulas), the pipeline (rollouts to steps), the stages.

Formulas live in `openzaya.rl.spine` and need nothing else of openzaya; `openzaya.rl.stages.run_rl`
is the driver.
"""
