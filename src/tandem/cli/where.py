"""Where a command looks: at a cluster, or into a store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tandem.errors import BadConfiguration, Fault

if TYPE_CHECKING:
    from tandem.control.cluster import Cluster
    from tandem.spec import Run

DEFAULT_STORE = "./tandem-store"


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to reach a cluster, as kubectl has it."""

    kubeconfig: str | None = None
    """None: as KUBECONFIG says, or the user's own; in a pod, the pod's account."""
    context: str | None = None
    """None: the current one."""
    namespace: str | None = None
    """None: that of the context, or of the pod."""

    def connect(self) -> Cluster:
        """The cluster's API server. Raises BadConfiguration if there is no usable login; asks the server nothing."""
        from tandem.control.cluster import connect

        return connect(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)

    def for_run(self, run: Run) -> Login:
        """The same, in the namespace that a Run file names. Raises BadConfiguration if an option names another."""
        named = run.metadata.namespace
        if named is None or named == self.namespace:
            return self
        if self.namespace is not None:
            what = f"the Run file is for namespace {named}, and --namespace says {self.namespace}"
            raise BadConfiguration(Fault(where="metadata.namespace", what=what, remedy="Leave out one of the two."))
        return replace(self, namespace=named)


def choose_store(store: str, login: Login) -> str | None:
    """The store that a command about Runs looks into; None: it asks the cluster.

    A store that was named comes first; then the folder of this machine's own Runs, unless an option is for a cluster.
    """
    if store:
        return store
    if login != Login() or not Path(DEFAULT_STORE).is_dir():
        return None
    return DEFAULT_STORE
