"""Commands over evaluators, found by file name; see engine.plugins."""
