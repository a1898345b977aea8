"""Lines of the standard library's logging as JSON, in the members that a node's other lines have."""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``event``, ``level``, ``logger``, ``timestamp``, and a traceback as text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters in it are escaped, so nobody can write a line of his own."""
        line = {
            "event": record.getMessage(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
