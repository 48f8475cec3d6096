"""The `>>>` examples of what users call first give what they show."""

import doctest
from importlib import import_module

import pytest
import torch

MODULES = (
    "distance.lpips",
    "metrics.distance",
    "metrics.diversity",
    "metrics.jnd",
    "metrics.opinion",
    "metrics.two_afc",
    "evaluation.methods",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    torch.manual_seed(0)
    result = doctest.testmod(import_module(f"perceptual.{name}"))
    assert result.attempted
    assert not result.failed
