"""What `import retake` gives, by topic: models, single takes, the loop, run folders, scores.

Holds no method of its own: each function joins what the engine does already for the command line. Importing
it imports no model library; a function imports what it needs when it is called.
"""
