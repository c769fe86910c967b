"""Labelled sentences and images: read, checked, made."""
