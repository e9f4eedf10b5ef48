"""Whether a cluster is ready for a Run: all that is missing, before it is submitted."""

from tandem.readiness.cluster import check_cluster
from tandem.readiness.inputs import check_inputs

__all__ = ["check_cluster", "check_inputs"]
