rule tokenize:
    """Token ids of every part of a data set, prompt and response apart."""
    input:
        base="resources/models/{base}/manifest.json",
        data="resources/datasets/{dataset}/manifest.json",
    output:
        manifest=ensure("resources/tokens/{base}/{dataset}/manifest.json", non_empty=True),
    log:
        log_of("tokenize"),
    benchmark:
        cost_of("tokenize")
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        config=config_of("tokenize"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" tokenize \
            --config {params.config:q} \
            --base {input.base:q} \
            --dataset {input.data:q} \
            --out {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """
