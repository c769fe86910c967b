"""Text: where δ enters a language model, and the sentences it is trained on."""
