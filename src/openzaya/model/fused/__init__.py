"""The training forward for accelerators: packed rows without padding, fused and free of syncs."""
