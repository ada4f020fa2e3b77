rule bench:
    """Speed beside plain forms of the same work: renews docs/performance.md, whenever it is asked."""
    input:
        program="benchmarks/speed.py",
        base="resources/models/smollm2-135m/manifest.json",
        page="docs/performance.md",
    log:
        "logs/bench.log",
    benchmark:
        "benchmarks/bench.jsonl"
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
