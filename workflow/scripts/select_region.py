"""Choose the region that a method trains from the localization table."""

from palimpsest.cli_args import folder, parser
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, localization=folder, out=folder).parse_args()
    write_once(args.out / "region.json")
    from palimpsest.stages.region import select_region

    select_region(args.config, args.localization, args.out)


if __name__ == "__main__":
    run_cli(main)
