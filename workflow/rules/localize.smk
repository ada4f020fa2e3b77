rule localize:
    """Knowledge localization: gradients on perturbed answers, per tensor of the subject."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("localize"),
    output:
        manifest=ensure("results/{model}/localization/manifest.json", non_empty=True),
    log:
        log_of("localize"),
    benchmark:
        cost_of("localize")
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("localize"),
        tokens=tokens_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" localize \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "localize {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule region:
    """The tensors that a method trains, chosen from the table; editing limits costs no gradient."""
    input:
        localization="results/{model}/localization/manifest.json",
    output:
        names=ensure("results/{model}/{method}/seed-{seed}/region.json", non_empty=True),
        table=ensure("results/{model}/{method}/seed-{seed}/region.parquet", non_empty=True),
    log:
        log_of("region"),
    benchmark:
        cost_of("region")
    wildcard_constraints:
        method=one_of(CFG.methods),
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("region"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" region \
            --config {params.config:q} \
            --localization {input.localization:q} \
            --out {output.names:q} \
            2>&1 | tee -i {log:q}
        """
