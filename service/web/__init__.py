"""HTTP itself: the gate, bodies, rate limits, admission, shutdown, logs, metrics. Nothing here knows what a chat is."""
