rule download_model:
    """Fetch a base model and convert it to a Hugging Face folder in safetensors."""
    output:
        manifest=ensure("resources/models/{base}/manifest.json", non_empty=True),
    log:
        log_of("download_model"),
    benchmark:
        cost_of("download_model")
    retries: 1
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
    params:
        config=config_of("download_model"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" download_model \
            --config {params.config:q} \
            --out {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """


rule download_data:
    """Bring a data set into the normal schema, split by question."""
    output:
        manifest=ensure("resources/datasets/{dataset}/manifest.json", non_empty=True),
    log:
        log_of("download_data"),
    benchmark:
        cost_of("download_data")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
    params:
        config=config_of("download_data"),
        untracked=untracked("download_data"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" download_data \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --out {output.manifest:q} \
            2>&1 | tee -i {log:q}
        """
