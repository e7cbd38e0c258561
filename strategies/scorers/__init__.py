"""Scorers that need no model of their own: a served model as a judge, and the samples' own probabilities."""
