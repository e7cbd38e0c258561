"""Comparisons: the service against vLLM itself and against its own ceiling. Never imported by the product."""
