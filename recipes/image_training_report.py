"""Tables and figures of `image_training.py`."""


def write_results(cells, experiments, args):
    pass
