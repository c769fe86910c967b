"""Adversarial training of a script that knows nothing of this package: `nlp-adv run`.

    nlp-adv run --adv freelb run_glue.py …      torchrun … -m nlp_adv.run --adv freelb run_glue.py …

The script runs in a process of its own, whose `PYTHONPATH` begins with a folder that holds a
`sitecustomize`: Python imports it before anything else, and it waits until transformers' Trainer is
imported. So the script may set environment variables first, start a launcher, or spawn workers,
which inherit the variable. The Trainer's `__init__` then gives every instance the class that it
would have had if its author had written `class T(AdversarialMixin, ItsClass)`.
"""
