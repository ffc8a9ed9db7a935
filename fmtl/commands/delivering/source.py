"""Which model an address means now."""

import re
from dataclasses import dataclass
from pathlib import Path

from fmtl.commands.choosing import models
from fmtl.tracking import logged_models, registry, store
from fmtl.tracking.store import RunRecord

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>.+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Source:
    """A model, and what is known of it.

    Attributes:
        address: That goes on meaning the same model.
        run: Its training's; None where it is not known.
        name, version: Of the registered model; None of another.
    """

    address: str
    run: RunRecord | None
    name: str | None = None
    version: int | None = None

    @property
    def stem(self) -> str:
        """What a file of it is called: by its registered name or its run, else as its own file or folder."""
        return self.name or (self.run.run_id if self.run else Path(self.address).stem)

    @property
    def data(self) -> str:
        """Digest of the dataset that it was trained on; empty where that is not known."""
        return self.run.tags.get("fmtl.data", "") if self.run else ""


def source_of(model: str) -> Source:
    """
    Args:
        model: As of every command that takes one.

    Raises:
        DataError, EnvironmentFault: There is no such model, or the store can't be used.
    """
    uri = models.uri_of(model)
    is_address = uri.startswith("models:/")
    found = _REGISTERED.fullmatch(uri)
    number = found and found["version"]
    version = int(number) if number else registry.alias_target(found["name"], found["alias"]) if found else None
    if found and version:  # of an alias that moves meanwhile, all the same of one version
        uri = f"models:/{found['name']}/{version}"
    if is_address:
        address = logged_models.lasting_address(uri)
    else:
        address = str(Path(uri).resolve()) if Path(uri).exists() else uri  # such as runs:/.../model
    run_id = logged_models.run_id_of(address) if is_address else None
    run = store.get_run(run_id) if run_id else None
    return Source(address, run, found["name"], version) if found else Source(address, run)
