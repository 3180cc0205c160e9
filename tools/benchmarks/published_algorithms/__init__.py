"""The published algorithms: slow references for the tests and the benchmarks."""
