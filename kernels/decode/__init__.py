"""What a language model does beside its GEMMs while it decodes: one token of each slot a step.

A slot is one reply being written, with its own rows of the KV cache. Invariant, tested bit for bit: what a
slot comes to does not depend on the other slots.
"""
