"""Robustness: evaluation of a trained model. Knows nothing of how it was trained."""
