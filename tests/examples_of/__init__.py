"""What README tells to write, a strategy and a scorer of one file each, and what the service then does with them."""
