"""The embedded default: simulated scenes and the three small models trained on them.

The generator, the critic, and the V-JEPA through which a selector looks.
"""
