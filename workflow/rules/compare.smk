rule compare:
    """Paired differences to `original`, forget quality and PrivLeak against `retrained`."""
    input:
        rows="results/{model}/{method}/rows.parquet",
        original="results/{model}/original/rows.parquet",
        retrained=retrained_of,
    output:
        compare=ensure("results/{model}/{method}/compare.json", non_empty=True),
    log:
        log_of("compare"),
    benchmark:
        cost_of("compare")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("compare"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" compare \
            --config {params.config:q} \
            --rows {input.rows:q} \
            --original {input.original:q} \
            --retrained "{input.retrained}" \
            --out {output.compare:q} \
            2>&1 | tee -i {log:q}
        """
