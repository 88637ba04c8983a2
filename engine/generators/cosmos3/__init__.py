"""The generation tower of Cosmos3: its forward and its text.

Its generator is coming; until then it declares no pipelines, so no folder is loaded by it.
"""
