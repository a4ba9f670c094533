"""Numbers: latency, memory, bytes, scores."""
