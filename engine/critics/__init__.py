"""Vision-language critics: one room for each family of models.

A family says in its `__init__`, which imports no torch, what it loads: `MODEL_TYPES` are values of
`model_type` in config.json. Its `critic.load` reads such a folder.
"""
