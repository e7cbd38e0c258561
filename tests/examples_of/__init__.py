"""What a newcomer would add: one file each, used end to end by a test."""
