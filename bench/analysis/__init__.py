"""Finished runs with the scores of their takes: read, chosen among, averaged with intervals."""
