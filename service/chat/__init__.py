"""A chat completion: from the request to an order, from its execution to the reply; or passed through to vLLM."""
