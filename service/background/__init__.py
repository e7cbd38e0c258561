"""Jobs that the service does itself, beside the requests: leases, retries, and how each one ends."""
