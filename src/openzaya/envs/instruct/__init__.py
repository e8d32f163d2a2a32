"""Instruction following: prompts with checkable constraints on how the reply is written.

`task` makes and judges problems; one family of constraints, one file in `families/`.
"""
