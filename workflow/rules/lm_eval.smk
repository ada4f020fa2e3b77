rule lm_eval:
    """General ability of one model, through the Language Model Evaluation Harness."""
    input:
        base=base_manifest,
        model="results/{model}/{subject_or_method}/seed-{seed}/model/model.json",
        data=data_for("lm_eval"),
    output:
        scores=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/lm_eval.json", non_empty=True
        ),
        rows=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/lm_eval.parquet", non_empty=True
        ),
    log:
        "logs/lm_eval/{model}.{subject_or_method}.seed-{seed}.log",
    benchmark:
        "benchmarks/lm_eval/{model}.{subject_or_method}.seed-{seed}.jsonl"
    wildcard_constraints:
        model=one_of(models_with_tasks()),
    priority: 10
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("lm_eval"),
        rows=batch_rows,
        batch=batch_tokens,
    shell:
        """
        python workflow/scripts/run_lm_eval.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --datasets resources/datasets \
            --out {output.scores:q} \
            --label "lm_eval {wildcards.model}/{wildcards.subject_or_method} seed {wildcards.seed}" \
            --batch-rows {params.rows} \
            --batch-tokens {params.batch} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
