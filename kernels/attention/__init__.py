"""One attention implementation per file: `ACCURACY`, `ERROR_FACTOR`, `supports(problem)` and `run(q, k, v)`.

The file name is the implementation's name; files that start with an underscore are shared by them.
"""
