rule score:
    """Every metric of one method, from its measured tables; needs no model."""
    input:
        likelihood=seed_files("likelihood.parquet"),
        generations=seed_files("generations.parquet"),
        judged=seed_files("judged.parquet") if JUDGED_APART else [],
        facts=seed_files("measure.json"),
        lm_eval=lm_eval_of,
        models=seed_files("model/model.json"),
        base=base_manifest,
        data=data_for("score"),
        untaught=untaught_of,
    output:
        eval=ensure("results/{model}/{subject_or_method}/eval.json", non_empty=True),
        rows=ensure("results/{model}/{subject_or_method}/rows.parquet", non_empty=True),
    log:
        "logs/score/{model}.{subject_or_method}.log",
    benchmark:
        "benchmarks/score/{model}.{subject_or_method}.jsonl"
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=stage("score"),
        configs=every_slice,
        seeds=lambda wildcards, input: [str(Path(file).parent) for file in input.facts],
        benchmarks=benchmark_options,
    shell:
        """
        python workflow/scripts/score.py \
            --config {params.config:q} \
            --seed-folders {params.seeds:q} \
            --datasets resources/datasets \
            --eval {output.eval:q} \
            --rows {output.rows:q} \
            --untaught "{input.untaught}" \
            --configs {params.configs:q} \
            --data-manifests {input.data:q} \
            --model-manifests {input.base:q} {input.models:q} \
            {params.benchmarks} \
            2>&1 | tee -i {log:q}
        """
