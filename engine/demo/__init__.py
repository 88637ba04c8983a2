"""The embedded default: simulated scenes and the two small models trained on them."""
