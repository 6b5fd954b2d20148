"""One optimiser step after another, with evaluation, log and progress."""
