"""Speed benchmarks, with comparisons to other packages."""
