"""Adversarial training for Hugging Face models."""
