"""Objects written once: a bucket or a folder, with one contract."""

from tandem.store.contract import AlreadyThere, Corrupt, Entry, FileDigest, Manifest, NotThere, Store

__all__ = ["AlreadyThere", "Corrupt", "Entry", "FileDigest", "Manifest", "NotThere", "Store"]
