"""In-flight batching: requests join a running batch, and leave it, between two steps."""
