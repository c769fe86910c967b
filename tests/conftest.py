"""Offline, silent and single-threaded before anything else is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("fast", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fast")
