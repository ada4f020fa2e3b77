"""Compare a method with the subject before unlearning and with 'retrained': compare.json."""

from palimpsest.cli_args import maybe, parser, path
from palimpsest.errors import run_cli
from palimpsest.machines.writer import write_once


def main() -> None:
    """Parse the arguments and run the stage."""
    args = parser(__doc__, rows=path, before=path, retrained=maybe, out=path).parse_args()
    write_once(args.out)
    from palimpsest.stages.compare import compare

    compare(args.config, args.rows, args.before, args.retrained, args.out)


if __name__ == "__main__":
    run_cli(main)
