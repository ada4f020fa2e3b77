# Nothing is declared as written, not even a benchmark file: so it measures whenever it is asked, and
# the rows of other measurements in docs/performance.csv stay.
rule bench:
    """Speed beside plain forms of the same work: renews the table and plots of docs/performance.md."""
    input:
        program="benchmarks/speed.py",
        base="resources/models/smollm2-135m/manifest.json",
        page="docs/performance.md",
    log:
        "logs/bench.log",
    conda:
        "../../envs/palimpsest.yaml"
    threads: workflow.cores
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=60,
    shell:
        """
        python {input.program:q} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
