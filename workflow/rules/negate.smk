rule negate:
    """Task-vector negation: the subject minus lambda times what was acquired."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        acquired="results/{model}/{method}/seed-{seed}/acquired/manifest.json",
        others=vectors_of,
        chosen=chosen_of,
    output:
        model=ensure("results/{model}/{method}/seed-{seed}/model/model.json", non_empty=True),
    log:
        log_of("negate"),
    benchmark:
        cost_of("negate")
    wildcard_constraints:
        method=one_of(results.methods_of(CFG, "acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("negate"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" negate \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --acquired {input.acquired:q} \
            --others {input.others:q} \
            --out {output.model:q} \
            2>&1 | tee -i {log:q}
        """
