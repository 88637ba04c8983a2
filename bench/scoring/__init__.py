"""The Physics-IQ scorer: clips against the real ones, in a process of its own."""
