"""The command `outthink`: one file a command, and what they share."""
