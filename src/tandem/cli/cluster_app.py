"""Commands that ask a cluster, and their options; what a command does is in the module of its name."""

from __future__ import annotations

from typing import Annotated

import typer

from tandem.cli.console import Format
from tandem.cli.options import Context, Kubeconfig, Namespace, Output, RunFile, RunName
from tandem.cli.where import Login

cluster_app = typer.Typer()


@cluster_app.command()
def submit(
    file: RunFile,
    name: Annotated[str, typer.Option(help="Give the Run this name instead of the file's.")] = "",
    again: Annotated[bool, typer.Option(help="Make a new Run, its name made from the file's.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Have the cluster say whether it would take the Run, and print what would be sent.")
    ] = False,
    wait: Annotated[
        bool, typer.Option(help="Show the Run's progress until its end; 1 if it does not succeed.")
    ] = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Have a cluster make a Run. The same file submitted twice is one Run."""
    from tandem.cli.submit import submit_file

    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    raise typer.Exit(submit_file(file, login, name=name, again=again, dry_run=dry_run, wait=wait, output=output))


@cluster_app.command()
def status(
    run: RunName,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Show how a Run in a cluster stands: phase, attempt, progress, figures, and what it waits for or died of."""
    from tandem.cli.cluster_runs import show_status

    show_status(run, Login(kubeconfig=kubeconfig, context=context, namespace=namespace), output=output)


@cluster_app.command()
def suspend(
    run: RunName,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Have a Run in a cluster save its work and free its GPUs; `resume` lets it go on."""
    from tandem.cli.cluster_runs import change_desired
    from tandem.spec import Desired

    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    change_desired(run, login, Desired.SUSPENDED, output=output)


@cluster_app.command()
def resume(
    run: RunName,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """Let a suspended Run in a cluster go on from its newest checkpoint."""
    from tandem.cli.cluster_runs import change_desired
    from tandem.spec import Desired

    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    change_desired(run, login, Desired.ACTIVE, output=output)


@cluster_app.command()
def cancel(
    run: RunName,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespace = None,
    output: Output = Format.TABLE,
) -> None:
    """End a Run in a cluster for good; what it has committed stays in the store."""
    from tandem.cli.cluster_runs import change_desired
    from tandem.spec import Desired

    login = Login(kubeconfig=kubeconfig, context=context, namespace=namespace)
    change_desired(run, login, Desired.CANCELLED, output=output)
