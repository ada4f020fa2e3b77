"""The options that every command has, and the configuration that they make."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from palimpsest.config import Config, read_config
from palimpsest.home import own_settings
from palimpsest.pipeline.launch import nested


def add_settings(parser: argparse.ArgumentParser, before: str = "") -> None:
    """The options of every command; they may also stand before it (`before` keeps those apart)."""
    options: dict[str, tuple[str, str, str]] = {
        "--configfile": ("overlays", "FILE", "overlays, as for snakemake"),
        "--config": ("config", "KEY=VALUE", "settings, as for snakemake"),
        "--set": ("set", "A.B=VALUE", "settings by their place: methods.sku.scale=2"),
    }
    # Before the command, more values would take the command for one of them.
    many: dict[str, Any] = {"action": "append"} if before else {"nargs": "+", "action": "extend"}
    for option, (name, metavar, text) in options.items():
        parser.add_argument(
            option,
            **many,
            default=[],
            dest=before + name,
            metavar=metavar,
            help=f"{text}; before or after the command",
        )


def settings_of(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Overlays and ``--config`` words of a command, from both places where they may stand.

    The settings of the project in the current folder come first.
    """
    table = nested([*args.first_set, *args.set])
    config = [*args.first_config, *args.config, *(f"{k}={json.dumps(v)}" for k, v in table.items())]
    return [*dict.fromkeys([*own_settings(), *args.first_overlays, *args.overlays])], config


def read(args: argparse.Namespace) -> Config:
    """The configuration of a command."""
    overlays, config = settings_of(args)
    return read_config(overlays=overlays, settings=config)


def options_of(args: argparse.Namespace) -> list[str]:
    """The same settings as words for Snakemake."""
    overlays, config = settings_of(args)
    words = ["--configfile", *overlays] if overlays else []
    return words + (["--config", *config] if config else [])


def wait(text: str) -> None:
    """Say at once what takes a while."""
    print(text, file=sys.stderr, flush=True)
