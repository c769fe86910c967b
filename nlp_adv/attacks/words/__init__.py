"""Attacks that replace words and characters, for all examples of a data set at once."""
