"""The configuration: one pydantic model is the source of defaults, JSON schema and key table."""

from palimpsest.config.load import load_config, read_config
from palimpsest.config.schema import Config
from palimpsest.config.targets import check_targets, config_or_exit

__all__ = ["Config", "check_targets", "config_or_exit", "load_config", "read_config"]
