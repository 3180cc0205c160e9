"""The algorithms as they were published: slow references, to compare with, of the tests and of the benchmarks."""
