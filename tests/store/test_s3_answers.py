"""What the answers of S3 servers mean."""

from __future__ import annotations

import pytest

from tandem.errors import BadConfiguration, Unavailable
from tandem.store.s3_answers import error_of_answer


@pytest.mark.parametrize(
    ("status", "code", "what"),
    [
        (403, "QuotaExceeded", "the bucket is full"),
        (400, "XMinioAdminBucketQuotaExceeded", "the bucket is full"),
        (507, "XMinioStorageFull", "the server has no room left"),
        (507, "", "the server has no room left"),
        (507, "507", "the server has no room left"),
        (507, "InsufficientCapacity", "the server has no room left"),
        (400, "EntityTooLarge", "the object is larger than the server takes"),
    ],
)
def test_a_full_bucket_is_no_matter_of_waiting(status: int, code: str, what: str) -> None:
    error = error_of_answer(status=status, code=code, message="", where="s3://b/k", server="s3://b at http://x")
    assert isinstance(error, BadConfiguration)
    (fault,) = error.faults
    assert what in fault.what
    assert fault.remedy


@pytest.mark.parametrize(("status", "code"), [(500, ""), (503, "SlowDown"), (429, "TooManyRequests"), (502, "502")])
def test_a_busy_server_is_waited_for(status: int, code: str) -> None:
    error = error_of_answer(status=status, code=code, message="", where="s3://b/k", server="s3://b at http://x")
    assert isinstance(error, Unavailable)
