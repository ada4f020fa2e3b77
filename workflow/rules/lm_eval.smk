rule lm_eval:
    """General ability of one model, through the Language Model Evaluation Harness."""
    input:
        base=base_manifest,
        model="results/{model}/{run}/model/model.json",
        data=data_for("lm_eval"),
    output:
        scores=ensure("results/{model}/{run}/lm_eval.json", non_empty=True),
        rows=ensure("results/{model}/{run}/lm_eval.parquet", non_empty=True),
    log:
        log_of("lm_eval"),
    benchmark:
        cost_of("lm_eval")
    wildcard_constraints:
        model=one_of(models_with_tasks()),
    priority: 10
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=gpus(1),
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("lm_eval"),
        untracked=untracked("lm_eval"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" lm_eval \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --datasets resources/datasets \
            --out {output.scores:q} \
            --label "lm_eval {wildcards.model}/{wildcards.run}" \
            --untracked {params.untracked:q} \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
