"""A run folder as one self-contained HTML page, or as a log for the tools of evaluators."""
