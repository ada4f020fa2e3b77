rule tokenize:
    """Token ids of every part of a data set, prompt and response apart."""
    input:
        base="resources/models/{base}/manifest.json",
        data="resources/datasets/{dataset}/manifest.json",
    output:
        manifest=ensure("resources/tokens/{base}/{dataset}/manifest.json", non_empty=True),
    log:
        "logs/tokenize/{base}.{dataset}.log",
    benchmark:
        "benchmarks/tokenize/{base}.{dataset}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        config=stage("tokenize"),
    shell:
        """
        python workflow/scripts/tokenize_data.py \
            --config {params.config:q} \
            --model {input.base:q} \
            --data {input.data:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """
