"""Attacks on what a language model answers to a prompt."""
