"""Accuracy against compute, as a job: a grid of strategies and sizes over a dataset, with honest numbers.

`recipe.py` is what is asked, `datasets.py` the questions, `run.py` does it, `results.py` turns what was written down
into figures by way of `statistics.py`, `report.py` shows them.
"""
