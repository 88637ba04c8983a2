"""The method: the life of a scenario, the lanes that carry it out, and the refinement policy."""
