"""Video generators: one room for each family of models.

A family says in its `__init__`, which imports no torch, whose pipelines it loads: `PIPELINES` are beginnings
of `_class_name` in model_index.json. Its `generator.load` reads such a folder.
"""
