"""Tells whether this user account has pushed a model as it is: loading a model runs code.

A pushed version holds an HMAC of all its other files. The key is the account's own, in its state folder, so that
nobody else's folder can claim to be pushed here, and a change of any file shows.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from retake import durable
from retake.files import open_regular

SEAL = "assets.extra/retake_seal"

_KEY_BYTES = 32

_log = logging.getLogger("retake")


def put(model: Path) -> None:
    """Seals a version that is complete, and says so where that cannot be done.

    Args:
      model: A version's folder, which gets one file more.
    """
    try:
        key = _key(make=True)
        (model / SEAL).parent.mkdir(exist_ok=True)
        (model / SEAL).write_text(_of(model, key))
    except OSError as error:
        why = error.strerror or str(error)
        _log.info("the pushed model is not sealed (%s): retake predict and results load it only with --trust", why)


def broken(model: Path) -> str | None:
    """What is wrong with a version's seal, for people after its path; None for one that this account has pushed.

    Example:
        >>> broken(Path("/nowhere"))
        'was not pushed by this user account on this machine'
    """
    try:
        with open_regular(model / SEAL) as file:
            sealed = file.read(hashlib.sha256().digest_size * 2 + 1)
        own = _of(model, _key(make=False)).encode()
    except OSError:
        return "was not pushed by this user account on this machine"
    return None if hmac.compare_digest(own, sealed) else "was pushed by another user account, or has changed since"


def _of(model: Path, key: bytes) -> str:
    content = hmac.new(key, digestmod=hashlib.sha256)
    for file in sorted(_files(model)):
        digest = hashlib.sha256()
        with open_regular(file) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        name = os.fsencode(file.relative_to(model))
        content.update(len(name).to_bytes(8, "big") + name + digest.digest())
    return content.hexdigest()


def _files(model: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(model):
        for name in [*folders, *names]:
            path = Path(folder, name)
            # A link may lead to something else tomorrow.
            if path.is_symlink():
                raise OSError(f"{path} is a link")
        yield from (Path(folder, name) for name in names if Path(folder, name) != model / SEAL)


def _key(make: bool) -> bytes:
    file = _state_folder() / "seal.key"
    try:
        return _read(file)
    except FileNotFoundError:
        if not make:
            raise
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError), durable.unfinished(file, replace=False) as partial:  # Two processes may make one.
        partial.touch(0o600)
        partial.write_bytes(secrets.token_bytes(_KEY_BYTES))
    return _read(file)


def _read(file: Path) -> bytes:
    with open_regular(file) as stream:
        key = stream.read()
        private = not os.fstat(stream.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if len(key) != _KEY_BYTES or not private:
        raise OSError(f"{file} is not a key that only this account reads; remove it, and models are sealed again")
    return key


def _state_folder() -> Path:
    configured = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        return (configured if configured.is_absolute() else Path.home() / ".local" / "state") / "retake"
    except RuntimeError as error:
        raise OSError(str(error)) from None
