"""Names that a request may send: models and checkpoints, presets, scorers."""
