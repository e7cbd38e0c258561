"""`make peers`: Outthink against its peers on the same engine, the same questions, the same model.

This package is imported within the peers' environments too, which have nothing of ours: this file, and `runners/`, need
only the standard library.
"""
