"""Grading of final answers in mathematics: typed golds, own parser, exact equality first.

Read in this order: `gold` (what a right answer is), `kinds` (how its kind is told), `extract`
(where the answer of a reply is), `tokens` and `parse` (its text as a tree), `shapes` (a tree as a
tuple, a set, an interval, ...), `form` (is it worked out?), `surds`, `balls` and `evaluate` (its
value), `equal`, then `judge` and `grade`, which go this way and say which step decided.
docs/guides/math_grading.md lists every policy.
"""
