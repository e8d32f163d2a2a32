"""Muon on a CPU in our own C++, in half precision where the processor computes in it."""
