"""One runner for each peer: `python -m benchmarks.peers.runners.NAME` within the peer's environment.

A runner says that it is ready, reads questions from its standard input, and writes an answer for each (`asking.py`).
"""
