"""`python -m service` is `outthink`."""

from service.cli import app

app()
