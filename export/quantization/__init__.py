"""Low precision in an exported graph: recorded magnitudes, scales, and the Q/DQ modules made with them."""
