"""Training: the Trainer mixin, its arguments and its metrics."""
