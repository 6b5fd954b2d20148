"""Built-in tasks: benchmarks of the field, read as they are distributed, scored by their rules."""
