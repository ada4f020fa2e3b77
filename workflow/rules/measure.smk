rule measure:
    """Token likelihoods and answers of one model over all evaluated rows, in one job."""
    input:
        base=base_manifest,
        model="results/{model}/{run}/model/model.json",
        original="results/{model}/original/seed-0/model/model.json",
        tokens=tokens_for("measure"),
        data=data_for("measure"),
    output:
        likelihood=ensure("results/{model}/{run}/likelihood.parquet", non_empty=True),
        generations=ensure("results/{model}/{run}/generations.parquet", non_empty=True),
        facts=ensure("results/{model}/{run}/measure.json", non_empty=True),
    log:
        log_of("measure"),
    benchmark:
        cost_of("measure")
    priority: 10
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("measure"),
        tokens=tokens_folder,
        untracked=untracked("measure"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" measure \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --original {input.original:q} \
            --tokens {params.tokens:q} \
            --datasets resources/datasets \
            --out {output.facts:q} \
            --label "measure {wildcards.model}/{wildcards.run}" \
            --untracked {params.untracked:q} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule sweep:
    """The trade-off over lambda on validation rows: one load, no training."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        acquired="results/{model}/{method}/seed-{seed}/acquired/manifest.json",
        others=vectors_of,
        tokens=tokens_for("sweep"),
        data=data_for("sweep"),
    output:
        table=ensure("results/{model}/{method}/seed-{seed}/sweep.parquet", non_empty=True),
    log:
        log_of("sweep"),
    benchmark:
        cost_of("sweep")
    wildcard_constraints:
        method=one_of(results.methods_of(CFG, "acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("sweep"),
        tokens=tokens_folder,
        untracked=untracked("sweep"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" sweep \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --acquired {input.acquired:q} \
            --others {input.others:q} \
            --tokens {params.tokens:q} \
            --datasets resources/datasets \
            --out {output.table:q} \
            --label "sweep {wildcards.model}/{wildcards.method}" \
            --untracked {params.untracked:q} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
