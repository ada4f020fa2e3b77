rule judge:
    """What a classifier or a chat model says about the answers to what is forbidden."""
    input:
        generations="results/{model}/{run}/generations.parquet",
        data=data_for("judge"),
        trained=trained_judge,
    output:
        judged=ensure("results/{model}/{run}/judged.parquet", non_empty=True),
    log:
        log_of("judge"),
    benchmark:
        cost_of("judge")
    wildcard_constraints:
        model=one_of([name for name in CFG.models if results.judged_apart(CFG, name)]),
    # A service is asked from the machine that started the run: nodes of a cluster may not reach it.
    localrule: any(results.judge_of(CFG, name).runs == "service" for name in CFG.models)
    conda:
        "../../envs/palimpsest.yaml"
    threads: lambda wildcards: 8 if judge_of(wildcards).runs == "model" else 1
    resources:
        gpu=gpus(lambda wildcards: judge_of(wildcards).runs == "model"),
        mem_mb=memory_of_judge,
        runtime=60,
    params:
        config=config_of("judge"),
        untracked=untracked("judge"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" judge \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --generations {input.generations:q} \
            --datasets resources/datasets \
            --trained "{input.trained}" \
            --out {output.judged:q} \
            --label "judge {wildcards.model}/{wildcards.run}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
