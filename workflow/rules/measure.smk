rule measure:
    """Token likelihoods and answers of one model over all evaluated rows, in one job."""
    input:
        base=base_manifest,
        model="results/{model}/{subject_or_method}/seed-{seed}/model/model.json",
        before="results/{model}/original/seed-0/model/model.json",
        tokens=tokens_for("measure"),
        data=data_for("measure"),
    output:
        likelihood=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/likelihood.parquet", non_empty=True
        ),
        generations=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/generations.parquet", non_empty=True
        ),
        facts=ensure("results/{model}/{subject_or_method}/seed-{seed}/measure.json", non_empty=True),
    log:
        "logs/measure/{model}.{subject_or_method}.seed-{seed}.log",
    benchmark:
        "benchmarks/measure/{model}.{subject_or_method}.seed-{seed}.jsonl"
    priority: 10
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("measure"),
        tokens=tokens_folder,
        rows=batch_rows,
        batch=batch_tokens,
    shell:
        """
        python workflow/scripts/measure.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --before {input.before:q} \
            --tokens {params.tokens:q} \
            --datasets resources/datasets \
            --out {output.facts:q} \
            --label "measure {wildcards.model}/{wildcards.subject_or_method} seed {wildcards.seed}" \
            --batch-rows {params.rows} \
            --batch-tokens {params.batch} \
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
        tokens=tokens_for("sweep"),
        data=data_for("sweep"),
    output:
        table=ensure("results/{model}/{method}/seed-{seed}/sweep.parquet", non_empty=True),
    log:
        "logs/sweep/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/sweep/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_of("acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("sweep"),
        tokens=tokens_folder,
        rows=batch_rows,
        batch=batch_tokens,
    shell:
        """
        python workflow/scripts/sweep.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --acquired {input.acquired:q} \
            --tokens {params.tokens:q} \
            --datasets resources/datasets \
            --out {output.table:q} \
            --label "sweep {wildcards.model}/{wildcards.method}" \
            --batch-rows {params.rows} \
            --batch-tokens {params.batch} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
