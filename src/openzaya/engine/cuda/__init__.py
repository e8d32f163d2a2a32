"""The forward pass on a CUDA device: Triton kernels, and decode steps replayed as CUDA graphs."""
