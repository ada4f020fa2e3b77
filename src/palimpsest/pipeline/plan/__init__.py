"""What a target would take: memory, disk and time of every stage; runs nothing."""
