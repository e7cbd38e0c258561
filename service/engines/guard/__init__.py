"""A folder that vLLM's process can import from, with nothing in it but the guard."""
