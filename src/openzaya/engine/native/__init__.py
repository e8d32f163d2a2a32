"""The forward pass on CPU in C++: compiled once on this machine, bit-identical for any batch."""
