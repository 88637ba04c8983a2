"""What was built, kept under what it was built of: weights, scales, library versions, the machine."""
