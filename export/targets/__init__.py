"""One file for each form that a subject can be exported to; `engine.plugins` finds them by name."""
