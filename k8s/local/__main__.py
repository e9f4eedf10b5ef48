"""A real Kubernetes on this machine: python -m k8s.local up | down | env | gpus."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from k8s.local import cluster, control_plane, layout
from k8s.local.faults import Fault
from k8s.local.kubectl import KubectlFailed
from k8s.local.processes import Programs


def main() -> int:
    """Do what the command line says; a fault is one line and exit code 78."""
    options = _parser().parse_args()
    try:
        options.does(options)
    except (Fault, KubectlFailed) as fault:
        sys.stderr.write(f"k8s.local: {fault}\n")
        return 78
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m k8s.local", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, does, text in (
        ("up", _up, "bring it up, and say where it is; harmless when it is up"),
        ("down", _down, "take it down, whatever is there of it"),
        ("env", lambda _: _print_environment(), "print the variables that lead to it, for a shell to read"),
        ("gpus", _gpus, "have the node say that it has GPUs"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(does=does)
        if name == "gpus":
            command.add_argument("count", type=int)
        if name in {"up", "down"}:
            command.add_argument(
                "--control-plane",
                type=Path,
                metavar="FOLDER",
                help="etcd, API server and controllers alone, on free ports, kept in FOLDER; as any user",
            )
    return parser


def _up(options: argparse.Namespace) -> None:
    if options.control_plane:
        _up_control_plane(options.control_plane.resolve())
        return
    folders = layout.default()
    if cluster.is_up(folders):
        sys.stderr.write("The local cluster is up.\n")
    else:
        with cluster.locked(wait=False):
            cluster.up(folders)
    _print_environment()


def _up_control_plane(folder: Path) -> None:
    programs = Programs(folder=folder, tied=False)
    if all(programs.running(name) for name in control_plane.PARTS):
        sys.stderr.write("The control plane is up.\n")
    else:
        control_plane.stop(programs)
        try:
            control_plane.start(programs, control_plane.free_addresses())
        except BaseException:
            control_plane.stop(programs)
            raise
    sys.stdout.write(f"export KUBECONFIG={folder / 'kubeconfig'}\n")


def _down(options: argparse.Namespace) -> None:
    if options.control_plane:
        control_plane.stop(Programs(folder=options.control_plane.resolve(), tied=False))
        return
    with cluster.locked(wait=False):
        cluster.down(layout.default())


def _print_environment() -> None:
    folders = layout.default()
    if not cluster.is_up(folders):
        raise Fault("the local cluster is not up: make cluster-up")
    variables = {
        "KUBECONFIG": str(folders.kubeconfig),
        "TANDEM_E2E_REGISTRY": layout.REGISTRY,
        "AWS_ENDPOINT_URL_S3": layout.S3,
        "AWS_ACCESS_KEY_ID": layout.S3_ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": layout.S3_SECRET_KEY,
        "AWS_REGION": layout.S3_REGION,
    }
    sys.stdout.write("".join(f"export {name}={value}\n" for name, value in variables.items()))


def _gpus(options: argparse.Namespace) -> None:
    folders = layout.default()
    if not cluster.is_up(folders):
        raise Fault("the local cluster is not up: make cluster-up")
    cluster.set_gpus(folders, options.count)


if __name__ == "__main__":
    raise SystemExit(main())
