"""`python -m service` is `outthink`."""

from service.commands.main import app

app()
