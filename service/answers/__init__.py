"""Comparing answers: as mathematics and as text, in processes that can be killed."""
