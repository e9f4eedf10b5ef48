"""LoRA finetuning from beginning to end: what the Run says, made ready for an attempt."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tandem.model.card import AdapterCard, CardTiles
from tandem.model.info import read_model_info
from tandem.model.loading import load_tokenizer
from tandem.model.prompt import INTERNVL2_5
from tandem.model.tiles import TileGeometry
from tandem.spec import TileRule
from tandem.store import open_store
from tandem.train.attempt import Attempt, leave_if_told
from tandem.train.corpus import Corpus, Tolerance, read_corpus
from tandem.train.job import RankJob
from tandem.train.packing import count_steps
from tandem.train.ranks import Ranks
from tandem.train.samples import ReadingRules
from tandem.train.steps import Loading
from tandem.train.watchdog import Watchdog, watch_nothing

logger = logging.getLogger("tandem.train")


def run_training(
    job: RankJob,
    ranks: Ranks,
    *,
    stop_asked: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    watchdog: Watchdog | None = None,
) -> None:
    """Train as one of the ranks; results are in job.output when it returns on all of them.

    Raises BadData and BadConfiguration for input that cannot be trained on, Unavailable while the store is away, and
    Stopped if it was told to stop and has saved its work.
    """
    started = clock()
    watchdog = watchdog or watch_nothing()
    # In a cluster each pod has a name of its own for the execution: the first one's counts.
    job = job.model_copy(update={"execution": ranks.share(job.execution)})
    prepare_folders(job, ranks)
    rules = describe_rules(job)
    tokenizer = load_tokenizer(job.model_folder)

    def read(meta: Path) -> Corpus:
        return read_corpus(
            meta,
            tokenizer,
            rules=rules,
            tolerance=Tolerance(too_long=job.train.drop_too_long, bad=job.train.drop_bad),
            limit=job.limit,
            ranks=ranks,
            threads=job.train.workers,
        )

    corpus = read(job.meta)
    validation = read(job.validation_meta) if job.validation_meta is not None else None
    watchdog.hear(lenient=True)
    leave_if_told(stop_asked, ranks)
    attempt = Attempt(
        job=job,
        ranks=ranks,
        store=open_store(job.store_url, say=logger.warning) if job.store_url is not None else None,
        clock=clock,
        stop_asked=stop_asked,
        watchdog=watchdog,
        loading=Loading(
            corpus=corpus,
            tokenizer=tokenizer,
            rules=rules,
            packed=job.train.batch.packed_tokens is not None,
            seed=job.seed,
        ),
        card=describe_card(job),
        validation=validation,
        steps=count_steps(
            len(corpus.samples),
            global_size=job.train.batch.global_size,
            epochs=job.train.epochs,
            steps=job.train.steps,
        ),
    )
    if ranks.leads_all:
        logger.info(
            "%d samples (left out: %d too long, %d bad); %d steps of %d samples on %d ranks",
            len(corpus.samples),
            len(corpus.too_long),
            len(corpus.bad),
            attempt.steps,
            job.train.batch.global_size,
            ranks.world,
        )
    attempt.timings["data_seconds"] = clock() - started
    attempt.go()


def prepare_folders(job: RankJob, ranks: Ranks) -> None:
    """Empty what an earlier attempt may have left on this node: what counts of it is in the store.

    The rest of output/ stays: the process around the ranks keeps their log there.
    """
    if ranks.leads_node:
        for folder in (job.work / "trainer", job.work / "resume", job.output / "checkpoints"):
            shutil.rmtree(folder, ignore_errors=True)
        (job.output / "checkpoints").mkdir(parents=True, exist_ok=True)
    ranks.wait()


def describe_rules(job: RankJob) -> ReadingRules:
    """How samples are read, from the Run's settings and the model's geometry."""
    info = read_model_info(job.model_folder)
    return ReadingRules(
        max_tiles=job.train.tiles.max,
        max_length=job.train.max_length,
        budget="per_sample" if job.train.tiles.rule is TileRule.PER_SAMPLE else "per_image",
        template=INTERNVL2_5,
        geometry=TileGeometry(
            tile_size=info.tile_size, patch_size=info.patch_size, thumbnail=job.train.tiles.thumbnail
        ),
    )


def describe_card(job: RankJob) -> AdapterCard:
    """What the adapter says about itself."""
    tiles = job.train.tiles
    return AdapterCard(
        tiles=CardTiles(max=tiles.max, rule=tiles.rule.value, thumbnail=tiles.thumbnail),
        template=INTERNVL2_5.name,
        system_message=INTERNVL2_5.system_message,
        answer_template=job.train.answer_template,
        base=job.base,
        seed=job.seed,
    )
