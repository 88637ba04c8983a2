"""Retake's own GPU kernels: attention, linear and fused element-wise operations.

Imports nothing on purpose: other libraries probe a package of this name, and importing it must stay free of
side effects. Reach an implementation through its module, for example `kernels.dispatch`.
"""
