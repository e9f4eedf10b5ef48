"""Every command and its options; what a command does is in the module of its name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.cluster_app import cluster_app
from tandem.cli.console import Format
from tandem.cli.options import (
    Across,
    Context,
    Kubeconfig,
    Namespace,
    Output,
    Place,
    RunFile,
    RunId,
    StoredNamespace,
    StoreUrl,
)
from tandem.cli.where import DEFAULT_STORE, Login, choose_store

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="LoRA-finetune InternVL models, evaluate them, and keep results that can be trusted.",
)


@app.command()
def run(
    file: RunFile,
    store: StoreUrl = DEFAULT_STORE,
    again: Annotated[bool, typer.Option(help="Make a new Run even if this one has ended.")] = False,
    strict: Annotated[bool, typer.Option(help="Treat warnings of the check as faults.")] = False,
    at_once: Annotated[
        int, typer.Option(min=1, help="Stages that may compute, and that may score, at once: 1 for each accelerator.")
    ] = 1,
    output: Output = Format.TABLE,
) -> None:
    """Check a Run, then train and evaluate on this machine. The same command goes on where it was broken off."""
    from tandem.cli.run import run_file

    raise typer.Exit(run_file(file, store, again=again, strict=strict, at_once=at_once, output=output))


@app.command()
def check(
    file: RunFile,
    store: Annotated[str, typer.Option("--store", envvar="TANDEM_STORE", help="Also look at this store.")] = "",
    strict: Annotated[bool, typer.Option(help="Treat warnings as faults.")] = False,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", help="GiB of one GPU that the Run is meant for, to compare with.")
    ] = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Also look at the cluster that it is meant for.")] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as -o json.")] = False,
) -> None:
    """Find everything that is wrong with a Run and its inputs, before a model is loaded; and missing in a cluster."""
    from tandem.cli.check import check_file

    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    is_meant = cluster or login != Login()
    code = check_file(
        file,
        store or None,
        strict=strict,
        gpu_memory=gpu_memory,
        output=Format.JSON if json else output,
        cluster=login if is_meant else None,
    )
    raise typer.Exit(code)


@app.command("list")
def list_(
    store: Place = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """List the Runs of a store, or of a cluster's namespace."""
    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    chosen = choose_store(store, login)
    if chosen is None:
        from tandem.cli.cluster_runs import list_cluster_runs

        list_cluster_runs(login, output=output)
    else:
        from tandem.cli.show import list_stored_runs

        list_stored_runs(chosen, namespace=namespace, output=output)


@app.command()
def show(
    run: RunId,
    store: StoreUrl = DEFAULT_STORE,
    namespace: StoredNamespace = None,
    across_preprocessing: Across = False,
    output: Output = Format.TABLE,
) -> None:
    """Show a Run from the store: its stages, attempts, figures, and where everything lies."""
    from tandem.cli.show import show_run

    show_run(run, store, namespace=namespace, across_preprocessing=across_preprocessing, output=output)


@app.command()
def logs(
    run: RunId,
    store: Place = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    stage: Annotated[str, typer.Option(help="Only this stage, or all that begin so: train, generate/base.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Print the logs of a Run's attempts, stage by stage; of a cluster also those of pods that are gone."""
    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    chosen = choose_store(store, login)
    if chosen is None:
        from tandem.cli.logs import print_cluster_logs

        print_cluster_logs(run, login, stage=stage, output=output)
    else:
        from tandem.cli.logs import print_stored_logs

        print_stored_logs(run, chosen, namespace=namespace, stage=stage, output=output)


@app.command()
def score(
    run: RunId,
    store: StoreUrl = DEFAULT_STORE,
    namespace: StoredNamespace = None,
    evaluation: Annotated[str, typer.Option("--eval", help="Only this evaluation of the Run.")] = "",
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="YAML with judge and bertScore, as in a Run file. Without it: the Run's."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Score the texts of a Run again, with its own or other settings; nothing is generated again."""
    from tandem.cli.score import score_again

    code = score_again(run, store, namespace=namespace, evaluation=evaluation, settings=settings, output=output)
    raise typer.Exit(code)


@app.command()
def push(
    path: Annotated[
        Path, typer.Argument(help="A folder (a model, an adapter, a data set with its images), or a Run file.")
    ],
    store: StoreUrl = DEFAULT_STORE,
) -> None:
    """Put a folder into the store under its digest and print its URI; of a Run file all inputs, and print the Run."""
    from tandem.cli.push import push_path

    push_path(path, store)


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A checkpoint in the remote-code format: a folder, s3:// or a hub id.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make, in the native format.")],
    revision: Annotated[str | None, typer.Option(help="The commit, if SRC is a hub id.")] = None,
) -> None:
    """Convert an InternVL2.5 or InternVL3 to the native format; no code of the checkpoint is run."""
    from tandem.cli.convert import convert_model

    convert_model(source, destination, revision)


@app.command()
def merge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A Run's id, or the folder of an adapter.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make, a plain checkpoint.")],
    store: StoreUrl = DEFAULT_STORE,
    checkpoint: Annotated[
        str, typer.Option(help="best, last or a step. Without it: the adapter that training ended with.")
    ] = "",
    base: Annotated[
        str | None, typer.Option(help="Folder or s3:// of the base model, if it is not where it was in training.")
    ] = None,
) -> None:
    """Merge a Run's adapter into its base model: one checkpoint that transformers and vLLM load."""
    from tandem.cli.merge import merge_run

    merge_run(run, destination, store, checkpoint=checkpoint, base=base)


class Documented(StrEnum):
    """What has a JSON schema."""

    RUN = "run"
    RESULT = "result"
    SAMPLE = "sample"


@app.command()
def schema(
    of: Annotated[
        Documented, typer.Argument(help="run: the Run file; result: result.json; sample: a line of samples.jsonl.")
    ] = Documented.RUN,
) -> None:
    """Print the JSON schema of the Run file, or of what an evaluation writes."""
    from tandem.cli.schema import print_schema

    print_schema(of.value)


app.add_typer(cluster_app)

demo_app = typer.Typer(no_args_is_help=True, help="Make and report the demo: a tiny InternVL, real images.")
app.add_typer(demo_app, name="demo")


@demo_app.command("prepare")
def demo_prepare(
    folder: Annotated[Path, typer.Argument(help="Where the base model and the data are made.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the data and of the base model.")] = 0,
) -> None:
    """Make the inputs of jobs/demo.yaml: real images, questions, and a base model trained on this machine."""
    from tandem.cli.demo import make_demo

    make_demo(folder, seed)


@demo_app.command("report")
def demo_report(
    file: RunFile = Path("jobs/demo.yaml"), store: StoreUrl = DEFAULT_STORE, across_preprocessing: Across = False
) -> None:
    """Print base and adapter side by side once the demo's Run has ended."""
    from tandem.cli.demo import report_demo

    report_demo(file, store, across_preprocessing=across_preprocessing)


@app.command()
def controller(
    store: StoreUrl = "",
    namespace: Annotated[
        str, typer.Option(envvar="POD_NAMESPACE", help="Whose Runs it serves. Without it: the pod's own.")
    ] = "",
    profiles: Annotated[Path, typer.Option(help="The folder of profiles, as the chart mounts it.")] = Path(
        "/etc/tandem/profiles"
    ),
    host: Annotated[str, typer.Option(help="Where /healthz, /readyz and /metrics are served.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Their port; 0 takes a free one.")] = 8080,
    kubeconfig: Annotated[
        str | None, typer.Option(help="For a controller outside the cluster. Without it: the pod's account.")
    ] = None,
) -> None:
    """Bring the Runs of a cluster's namespace to their end. The chart tandem runs it."""
    from tandem.cli.controller import run_controller

    run_controller(store, namespace=namespace, profiles=profiles, host=host, port=port, kubeconfig=kubeconfig)


@app.command(hidden=True)
def stage(
    name: Annotated[str, typer.Argument(help="train, generate or score; the STAGE variable says which of them.")],
) -> None:
    """Do one attempt of one stage: what every pod runs. Its facts come from the environment."""
    from tandem.cli.stage import run_stage

    raise typer.Exit(run_stage(name))
