"""Reads the tables that the actors own, and the bus', into one value."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from actors.catalogue import default_models, embedded_models
from actors.config import VARIABLES, ActorsConfig
from actors.rag.config import RAG_VARIABLES, RagConfig
from bus.config import BUS_VARIABLES, NATS_VARIABLES, BusConfig, NatsConfig
from bus.messages.catalogue import ModelEntry
from bus.settings import SettingsError, read_file, settings

EMBEDDED = "FUSION_EMBEDDED_MODELS"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """All that the actors and their supervisor read."""

    bus: BusConfig
    nats: NatsConfig
    actors: ActorsConfig
    rag: RagConfig
    models: tuple[ModelEntry, ...]

    def entry(self, model: str) -> ModelEntry:
        """Return the model of the catalogue. Raises `SettingsError`."""
        for entry in self.models:
            if entry.id == model:
                return entry
        known = ", ".join(entry.id for entry in self.models)
        raise SettingsError(f"There is no model '{model}' in the catalogue; there are: {known}.")


def configuration(path: Path | None, environment: Mapping[str, str]) -> Configuration:
    """Return the configuration from the file and the environment. Raises `SettingsError`.

    Without models in the file the catalogue is the machine's default, or, if FUSION_EMBEDDED_MODELS is 1, what
    needs no network.
    """
    tables = read_file(path)
    where = str(path or "configuration")
    return Configuration(
        bus=settings(BusConfig, tables.get("bus"), environment, BUS_VARIABLES, where=f"{where}: bus"),
        nats=settings(NatsConfig, tables.get("nats"), environment, NATS_VARIABLES, where=f"{where}: nats"),
        actors=settings(ActorsConfig, tables.get("actors"), environment, VARIABLES, where=f"{where}: actors"),
        rag=settings(RagConfig, tables.get("rag"), environment, RAG_VARIABLES, where=f"{where}: rag"),
        models=_models(tables.get("models"), environment, where),
    )


def _models(table: Any, environment: Mapping[str, str], where: str) -> tuple[ModelEntry, ...]:
    if environment.get(EMBEDDED) == "1":
        return embedded_models()
    if table is None:
        return default_models()
    if not isinstance(table, list):
        raise SettingsError(f"{where}: models must be a list.")
    models = tuple(
        settings(ModelEntry, row, {}, {}, where=f"{where}: models[{number}]") for number, row in enumerate(table)
    )
    names = [name for model in models for name in (model.id, *model.aliases)]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SettingsError(f"{where}: models: '{twice.pop()}' stands there twice.")
    return models
