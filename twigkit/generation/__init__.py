"""One call of generate: prefill with pruning, then draft, verify and accept."""
