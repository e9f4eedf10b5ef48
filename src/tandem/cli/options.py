"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tandem.cli.console import Format

RunFile = Annotated[Path, typer.Argument(metavar="FILE", help="A Run file, for example jobs/demo.yaml.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A Run's id, or the beginning of one.")]
StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TANDEM_STORE",
        help="A folder or s3://bucket/prefix; the endpoint comes from the standard AWS variables.",
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A Run's name in the cluster, or its id.")]
Kubeconfig = Annotated[
    str | None,
    typer.Option(help="Of the cluster. Without it: KUBECONFIG, or the user's own; in a pod without one, its account."),
]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig. Without it: the current one.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="In the cluster. Without it: that of the context.")
]
StoredNamespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Only Runs of this namespace; those of one machine are in `local`."),
]
Place = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TANDEM_STORE",
        help="A folder or s3://bucket/prefix to look into. Without it: ./tandem-store if it is there and no option is "
        "for a cluster, else the cluster.",
    ),
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How the answer is printed.")]
Across = Annotated[
    bool,
    typer.Option(
        "--across-preprocessing",
        help="Put figures side by side even if a server prepared images and prompts for some of them.",
    ),
]
