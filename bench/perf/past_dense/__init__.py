"""Speed past dense attention: sparse behind a prefix, a prefix computed once, a kept library."""
