"""Recipes run cell by cell, and searches for hyperparameters."""
