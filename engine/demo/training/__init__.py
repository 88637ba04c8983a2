"""How the bundled models were trained, on simulated scenes. No run imports it."""
