"""Generation for many requests at once: token ids in, sampled tokens with their record out."""
