"""What a user can set: the settings, their defaults and presets, and where caches lie."""
