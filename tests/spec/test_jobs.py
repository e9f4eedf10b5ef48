from __future__ import annotations

from pathlib import Path

import pytest

from tandem.spec import JudgeProtocol, LossRule, RunSpec, Schedule, Subject, TileRule, TrainSpec, load_run

FOLDER = Path(__file__).parents[2] / "jobs"
JOBS = sorted(FOLDER.glob("*.yaml"))


def load(name: str) -> RunSpec:
    return load_run(FOLDER / f"{name}.yaml").run.spec


def load_training(name: str) -> TrainSpec:
    train = load(name).train
    assert train is not None
    return train


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_job_is_a_valid_run_of_its_files_name(path: Path) -> None:
    assert load_run(path).run.metadata.name == path.stem


def test_the_two_recipes_the_evaluation_the_demo_and_a_recommendation_are_shipped() -> None:
    assert {path.stem for path in JOBS} >= {"chiron-2b", "chiron-8b", "chiron-eval", "demo", "recommended"}


# manglu097/Chiron-o1 at fde348e, train/internvl2_5_{2b,8b}_dynamic_res_2nd_finetune_lora.sh: GPUS, BATCH_SIZE,
# GRADIENT_ACC, weight_decay; all else is the same in both.
@pytest.mark.parametrize(
    ("name", "ranks", "batch", "accumulation", "weight_decay"),
    [("chiron-2b", 8, 64, 2, 0.01), ("chiron-8b", 2, 16, 2, 0.05)],
)
def test_a_recipe_has_the_originals_hyperparameters(
    name: str, ranks: int, batch: int, accumulation: int, weight_decay: float
) -> None:
    train = load_training(name)
    assert (train.ranks, train.batch.global_size, train.batch.per_device) == (ranks, batch, 4)
    assert (train.accumulation, train.batch.packed_tokens) == (accumulation, None)
    assert (train.lora.r, train.lora.alpha, train.lora.dropout) == (16, 32, 0.05)
    assert (train.tiles.max, train.tiles.rule, train.tiles.thumbnail) == (6, TileRule.PER_SAMPLE, True)
    assert (train.max_length, train.epochs, train.steps, train.precision) == (8192, 1, None, "bfloat16")
    optimizer = train.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.warmup_ratio) == (4e-5, weight_decay, 0.03)
    assert (optimizer.betas, optimizer.eps, optimizer.clip_norm) == ((0.9, 0.999), 1e-8, 1.0)
    assert optimizer.schedule is Schedule.COSINE
    assert train.loss is LossRule.MICRO_BATCH_MEAN
    assert (train.zero.stage, train.gradient_checkpointing, train.workers, train.log_every_steps) == (1, True, 4, 1)
    assert train.tensorboard


def test_the_evaluation_has_the_originals_settings() -> None:
    # manglu097/Chiron-o1 at fde348e, eval/eval.py: load_image, generation_config, ds_forward, score.
    (evaluation,) = load("chiron-eval").evals
    assert evaluation.of is Subject.ADAPTER
    assert evaluation.tiles is not None
    assert (evaluation.tiles.max, evaluation.tiles.rule, evaluation.tiles.thumbnail) == (12, TileRule.PER_IMAGE, True)
    assert (evaluation.max_new_tokens, evaluation.answer_template) == (1024, "### The final answer is: {answer}")
    judge = evaluation.judge
    assert (judge.base_url, judge.model) == ("https://api.deepseek.com", "deepseek-chat")
    assert (judge.protocol, judge.temperature, judge.seed) == (JudgeProtocol.ORIGINAL, 0.9, None)
    assert evaluation.bert_score is not None
    assert (evaluation.bert_score.model, evaluation.bert_score.layer) == ("FacebookAI/roberta-large", 17)


def test_the_recommended_run_is_packed_has_a_global_mean_and_a_judge_that_repeats_itself() -> None:
    spec = load("recommended")
    assert spec.train is not None
    assert spec.train.batch.packed_tokens is not None
    assert spec.train.loss is LossRule.GLOBAL_TOKEN_MEAN
    assert spec.train.validation is not None
    assert {evaluation.tiles for evaluation in spec.evals} == {None}, "base and adapter share the tiles of the training"
    for evaluation in spec.evals:
        assert (evaluation.judge.temperature, evaluation.judge.protocol) == (0, JudgeProtocol.TANDEM)
