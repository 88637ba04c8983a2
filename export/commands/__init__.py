"""Commands over exports, found by file name; see engine.plugins."""
