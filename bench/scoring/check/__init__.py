"""Our scorer beside the official evaluator: equal numbers, then time and memory."""
