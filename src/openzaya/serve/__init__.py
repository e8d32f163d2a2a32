"""The OpenAI-compatible server of our own engine."""
