"""Evaluation: pass@1 with standard errors, and test-time compute at equal generated tokens."""
