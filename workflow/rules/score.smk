rule score:
    """Every metric of one method, from its measured tables; needs no model."""
    input:
        likelihood=seed_files("likelihood.parquet"),
        generations=seed_files("generations.parquet"),
        judged=judged_of,
        facts=seed_files("measure.json"),
        lm_eval=lm_eval_of,
        models=seed_files("model/model.json"),
        base=base_manifest,
        data=data_for("score"),
        base_likelihood=base_likelihood,
        original_answers="results/{model}/original/seed-0/generations.parquet",
        base_answers=base_answers,
        robust=robust_of,
        tuning=reported_of,
    output:
        eval=ensure("results/{model}/{method}/eval.json", non_empty=True),
        rows=ensure("results/{model}/{method}/rows.parquet", non_empty=True),
    log:
        log_of("score"),
    benchmark:
        cost_of("score")
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=config_of("score"),
        configs=lambda w: keep(results.slices_behind(CFG, w.model, w.method)),
        costs=lambda w, input: keep(results.costs_behind(CFG, w.model, w.method)),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" score \
            --config {params.config:q} \
            --seeds {input.facts:q} \
            --datasets resources/datasets \
            --base-likelihood "{input.base_likelihood}" \
            --base {input.base:q} \
            --original-answers {input.original_answers:q} \
            --base-answers "{input.base_answers}" \
            --robust "{input.robust}" \
            --configs {params.configs:q} \
            --data-manifests {input.data:q} \
            --model-manifests {input.base:q} {input.models:q} \
            --costs {params.costs:q} \
            --out {output.eval:q} \
            2>&1 | tee -i {log:q}
        """
