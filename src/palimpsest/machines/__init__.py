"""GPUs, locks and processes of a machine, without any library that would open its GPUs."""
