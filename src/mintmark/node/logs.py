"""Logging of a node's processes: one line an event, for people on a terminal and as JSON elsewhere."""

import logging
import sys

import structlog

from mintmark.ports.signer import HardeningReport
from mintmark.server.settings import Settings
from mintmark.signer.logline import JsonFormatter


def as_json(settings: Settings) -> bool:
    """Whether lines are JSON: where that is set, and where nobody reads along on a terminal."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())


def configure(settings: Settings) -> None:
    """Set up structlog and the standard library's loggers for this process, on standard error."""
    json = as_json(settings)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line and its end in one write: the processes of a node share one standard error.
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(level, logging.WARNING), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if json:
        logging.getLogger().handlers[0].setFormatter(JsonFormatter())


def report(hardening: HardeningReport) -> None:
    """Log each protection of this process: quietly where it is on, as a warning where it is not."""
    for item in hardening:
        level = logging.DEBUG if item.on else logging.WARNING
        logging.getLogger("mintmark.hardening").log(level, "%s: %s", item.name, item.reason)
