"""The generation tower of Cosmos3: its forward and its text; no generator drives it yet."""
