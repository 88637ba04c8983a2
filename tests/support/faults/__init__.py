"""Faults put into real runs of tiny models, and what they cost: the harness behind `make faults`.

Knows no fault's cure. Invariant: what counts as lost, duplicated, corrupt or unequal is decided at one place,
`evidence`, and each of the four has a test that injects it and sees it reported.
"""
