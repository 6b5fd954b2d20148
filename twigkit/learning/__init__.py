"""What objectives are computed from: batches, passes of base and twig, losses and rewards."""
