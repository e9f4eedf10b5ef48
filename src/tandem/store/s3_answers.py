"""What an S3 server's error answers mean: whether waiting helps and, if not, what the user can do."""

from __future__ import annotations

from tandem.errors import BadConfiguration, BadData, Fault, TandemError, Unavailable
from tandem.store.contract import AlreadyThere, NotThere

_TEMPORARY = frozenset(
    {
        "BadDigest",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "XAmzContentSHA256Mismatch",
    }
)
"""Codes that ask for another attempt, some of them with a 4xx status."""

_KEYS_OVERLAP = frozenset({"ExistingObjectIsDirectory", "ObjectParentIsFile"})
"""Answers of servers that keep objects in a file system."""

_CREDENTIALS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile, or the pod's role)"
_ADDRESS = "Check the bucket's name, AWS_ENDPOINT_URL_S3 and AWS_REGION; create the bucket if it is not there"

_ROOM = "Make room in it or raise its quota, then run the same command again: it goes on with what is stored"

_PERMANENT: dict[str, tuple[str, str]] = {
    "AccessDenied": ("access is denied", "Allow these credentials to get, put and list objects in this bucket"),
    "AuthorizationHeaderMalformed": ("the region is wrong", "Set AWS_REGION to the bucket's region"),
    "EntityTooLarge": ("the object is larger than the server takes", "Raise the server's limit on an object's size"),
    "ExpiredToken": ("the session token has expired", "Renew the credentials"),
    "IllegalLocationConstraintException": ("the region is wrong", "Set AWS_REGION to the bucket's region"),
    "InsufficientStorage": ("the server has no room left", _ROOM),
    "InvalidAccessKeyId": ("the access key is not known to the server", _CREDENTIALS),
    "InvalidBucketName": ("this is not a bucket's name", _ADDRESS),
    "InvalidToken": ("the session token is not valid", "Renew the credentials"),
    "NoSuchBucket": ("there is no such bucket", _ADDRESS),
    "NotImplemented": ("the server does not know a request that is needed", "Use a server with conditional writes"),
    "PermanentRedirect": ("the bucket is in another region", "Set AWS_REGION to the bucket's region"),
    "QuotaExceeded": ("the bucket is full: its quota is used up", _ROOM),
    "RequestTimeTooSkewed": ("the clocks of client and server differ", "Set this machine's clock"),
    "SignatureDoesNotMatch": ("the secret key is wrong", _CREDENTIALS),
    "XAdminUserNotFound": ("the access key is not known to the server", _CREDENTIALS),
    "XMinioAdminBucketQuotaExceeded": ("the bucket is full: its quota is used up", _ROOM),
    "XMinioStorageFull": ("the server has no room left", _ROOM),
}
"""Code -> (what, remedy)."""

_NOT_THERE = frozenset({"", "404", "NoSuchKey", "NoSuchUpload", "NotFound"})
"""Codes of status 404 that are about the object; servers have others, such as an unknown user's."""

_BY_STATUS = {301: "PermanentRedirect", 403: "AccessDenied", 501: "NotImplemented", 507: "InsufficientStorage"}
"""HEAD is answered without a body, so its errors have only a status."""


def error_of_answer(*, status: int, code: str, message: str, where: str, server: str) -> TandemError:
    """The typed error of an answer with this HTTP status and this S3 error code.

    where names the object, server the bucket with its endpoint: what is wrong with all objects is told of it.
    """
    if code not in _PERMANENT and (not code or code.isdigit() or status == 507):
        code = _BY_STATUS.get(status, code)
    if code in _PERMANENT:
        what, remedy = _PERMANENT[code]
        return BadConfiguration(Fault(where=server, what=what, remedy=remedy))
    if status == 412:
        return already_there(where)
    if status == 404 and code in _NOT_THERE:
        remedy = "Check the key and the address of the store"
        return NotThere(Fault(where=where, what="there is no such object", remedy=remedy))
    if code in _TEMPORARY or status == 429 or status >= 500:
        what = f"the server answered {status} {code}".rstrip()
        return Unavailable(Fault(where=server, what=what, remedy="Try again when the server is well"))
    if code in _KEYS_OVERLAP:
        what = "the key is the folder of other objects, or below another object"
        return BadData(Fault(where=where, what=what, remedy="Choose another key"))
    what = f"the server refused the request: {status} {code}: {one_line(message)}"
    return BadConfiguration(Fault(where=where, what=what, remedy=f"{_ADDRESS}. {_CREDENTIALS}"))


def already_there(where: str) -> AlreadyThere:
    """The error of a second write to a key."""
    remedy = "Objects are never overwritten: choose another key, or use what is there"
    return AlreadyThere(Fault(where=where, what="the object exists already", remedy=remedy))


def one_line(message: str) -> str:
    """A foreign message, as it fits into a fault."""
    text = " ".join(message.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
