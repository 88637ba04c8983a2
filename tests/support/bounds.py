"""How far two evaluations of one sum may lie apart in floating point: derived, not measured; no test here.

Which kernel a library picks depends on the shapes, the batch, the number of threads and the instructions of
the CPU, and with it the order of summation: only the same call on the same shapes gives the same bits.
"""

from __future__ import annotations

import math

import torch

SIGMAS = 6.0
"""By Hoeffding's inequality an entry is past a bound of this many with a probability of 2 exp(-18) = 3e-8."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """u of the standard model fl(a op b) = (a op b)(1 + d), |d| <= u, under rounding to nearest."""
    return torch.finfo(dtype).eps / 2


def gemm_bound(dtype: torch.dtype, reduction_length: int, scale: float) -> float:
    """The largest difference of two evaluations of a dot product x.y of `reduction_length` terms.

    `scale` is |x|.|y|, the sum of the magnitudes of the terms, or a bound of it. In any order of summation

        |fl(x.y) - x.y| <= gamma_n |x|.|y|,   gamma_n = n u / (1 - n u)

    (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1): a term carries at most n
    factors (1 + d), and in the worst case all d have one sign. Independent d of mean zero give sqrt(n) u, and
    stay below SIGMAS sqrt(n) u but for a probability of 3e-8 (Higham and Mary, A new approach to
    probabilistic rounding error analysis, 2019). The smaller of the two is used, and twice: both
    evaluations round.

    GEMMs in a row take the sum of their reduction lengths: gamma_m + gamma_n + gamma_m gamma_n <=
    gamma_(m + n). That is to first order and for layers that pass an error on as large as it came.
    """
    u = unit_roundoff(dtype)
    worst = reduction_length * u / (1 - reduction_length * u)
    typical = SIGMAS * math.sqrt(reduction_length) * u
    return 2 * min(worst, typical) * scale
