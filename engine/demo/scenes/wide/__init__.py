"""The wide world: scenes whose prefix decides what their brief leaves out.

Fifteen kinds in five categories. Materials, surfaces, poles, dials and starting places can be read from the
prefix and decide direction, time, count, who hits whom and where things rest; no brief tells any of it.
"""
