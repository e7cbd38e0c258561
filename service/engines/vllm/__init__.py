"""vLLM over its public HTTP API, alone or behind a router."""
