rule download_model:
    """Fetch a base model and convert it to a Hugging Face folder in safetensors."""
    output:
        manifest=ensure("resources/models/{base}/manifest.json", non_empty=True),
    log:
        "logs/download_model/{base}.log",
    benchmark:
        "benchmarks/download_model/{base}.jsonl"
    retries: 1
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
    params:
        config=stage("download_model"),
    shell:
        """
        python workflow/scripts/download_model.py \
            --config {params.config:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """


rule download_data:
    """Bring a data set into the normal schema, split by question."""
    output:
        manifest=ensure("resources/datasets/{dataset}/manifest.json", non_empty=True),
    log:
        "logs/download_data/{dataset}.log",
    benchmark:
        "benchmarks/download_data/{dataset}.jsonl"
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
    params:
        config=stage("download_data"),
    shell:
        """
        python workflow/scripts/download_data.py \
            --config {params.config:q} \
            --manifest {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """
