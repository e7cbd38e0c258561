"""Comparing answers, as mathematics and as text, and checking equalities in them, in processes that can be killed."""
