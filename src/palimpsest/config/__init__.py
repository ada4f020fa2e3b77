"""The configuration: one pydantic model is the source of defaults, JSON schema and key table."""

from palimpsest.config.load import load_config, read_config
from palimpsest.config.schema import Config

__all__ = ["Config", "load_config", "read_config"]
