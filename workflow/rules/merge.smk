rule merge:
    """A full Hugging Face folder of the unlearned model (on request)."""
    input:
        base=base_manifest,
        model="results/{model}/{run}/model/model.json",
        eval=eval_of_run,
    output:
        manifest=ensure("results/{model}/{run}/merged/manifest.json", non_empty=True),
    log:
        log_of("merge"),
    benchmark:
        cost_of("merge")
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=config_of("merge"),
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" merge \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --eval "{input.eval}" \
            --out {output.manifest:q} \
            --label "merge {wildcards.model}/{wildcards.run}" \
            2>&1 | tee -i {log:q}
        """
