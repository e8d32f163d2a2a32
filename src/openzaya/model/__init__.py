"""The ZAYA model: MoE++ layers, caches and checkpoints. Knows token ids, never text."""
