"""The Run file: one definition behind validation, the JSON schema, the reference page and the custom resource."""

from tandem.spec.evals import (
    BertScoreSpec,
    EndpointSpec,
    Engine,
    EvalSpec,
    JudgeKind,
    JudgeProtocol,
    JudgeSpec,
    Subject,
)
from tandem.spec.identity import canonical_json, run_id, sha256_hex, spec_digest
from tandem.spec.load import Submission, load_run, parse_object, parse_run
from tandem.spec.model import ModelSpec, Precision, TileRule, TilesSpec
from tandem.spec.run import Desired, ProfilesSpec, Run, RunSpec
from tandem.spec.train import (
    FINAL_ANSWER,
    BatchSpec,
    CheckpointSpec,
    LoraSpec,
    LossRule,
    OptimizerSpec,
    Schedule,
    TrainSpec,
    ValidationSpec,
    ZeroSpec,
    find_marker,
)

__all__ = [
    "FINAL_ANSWER",
    "BatchSpec",
    "BertScoreSpec",
    "CheckpointSpec",
    "Desired",
    "EndpointSpec",
    "Engine",
    "EvalSpec",
    "JudgeKind",
    "JudgeProtocol",
    "JudgeSpec",
    "LoraSpec",
    "LossRule",
    "ModelSpec",
    "OptimizerSpec",
    "Precision",
    "ProfilesSpec",
    "Run",
    "RunSpec",
    "Schedule",
    "Subject",
    "Submission",
    "TileRule",
    "TilesSpec",
    "TrainSpec",
    "ValidationSpec",
    "ZeroSpec",
    "canonical_json",
    "find_marker",
    "load_run",
    "parse_object",
    "parse_run",
    "run_id",
    "sha256_hex",
    "spec_digest",
]
