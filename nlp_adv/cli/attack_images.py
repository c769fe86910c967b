"""`nlp-adv attack --modality image`: attacks on images, records as it goes, a report."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nlp_adv import __version__
from nlp_adv.cli.attack_image_arguments import ImageAttackArguments, ImageVictimArguments, parse
from nlp_adv.cli.evaluations import command_line
from nlp_adv.cli.report import table
from nlp_adv.errors import UserError
from nlp_adv.images import FGSM, Attack
from nlp_adv.images.data import Images, load_images
from nlp_adv.images.loading import LoadedClassifier, load_classifier
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.evaluation import environment
from nlp_adv.robustness.images import (
    EpsilonSweep,
    ImageRobustness,
    epsilon_sweep,
    evaluate_images,
    image_checks,
)
from nlp_adv.robustness.images.checks import check_image_records
from nlp_adv.robustness.images.finished import FinishedParts
from nlp_adv.robustness.images.report import (
    ImageReport,
    exhibit_ids,
    exhibits,
    write_image_report,
)
