# It leases no GPU and uses what is visible, as `make bench` does: ask for it alone.
# Nothing is declared as written, not even a benchmark file: so it measures whenever it is asked, and
# the rows of other measurements in docs/performance.csv stay.
rule bench:
    """Speed compared with plain forms of the same work: renews the table and plots of docs/performance.md."""
    input:
        program="bench/speed.py",
        base="resources/models/smollm2-135m/manifest.json",
        page="docs/performance.md",
    log:
        "logs/bench.log",
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=0,
        mem_mb=16000,
        runtime=60,
    shell:
        """
        python -m bench.speed \
            2>&1 | tee -i {log:q}
        """
