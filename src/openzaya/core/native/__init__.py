"""C++ of the project: compiled on first use, with the vectors that all of it is written in."""
