"""Logs of the service: one JSON object a line on standard error.

`time` (UTC, ISO 8601), `level`, `process`, `logger`, `message`, and whatever a record carries in `fields`. Texts of
questions and responses are in no record, unless the server was started with `--log-texts`.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
from typing import Any

TEXTS_VARIABLE = "MEDATRON_REWARD_LOG_TEXTS"


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configuration(level: str) -> dict[str, Any]:
    """For `logging.config.dictConfig`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "reward_server.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
    }


def with_texts() -> bool:
    """Whether texts may be logged."""
    return os.environ.get(TEXTS_VARIABLE) == "1"
