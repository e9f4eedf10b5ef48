"""What every rank imports: loaded once, by the server that the tests' ranks are forked from."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: F401
import peft  # noqa: F401

import tandem.model.internvl
import tandem.train.rank
import tandem.train.recipe
import tandem.train.trainer
import tandem.train.validation  # noqa: F401
