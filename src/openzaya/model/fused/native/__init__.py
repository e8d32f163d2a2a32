"""The fused forward's element-wise work and attention on a CPU, in C++ with gradients."""
