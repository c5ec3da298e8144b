"""The parts of `benchmark.py`: how it measures, what it measures, what it reports."""
