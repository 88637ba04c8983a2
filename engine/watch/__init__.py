"""A run that goes on as a page of this machine, which follows it."""
