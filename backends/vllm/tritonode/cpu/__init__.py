"""The CPU's kernels, threads and heap."""
