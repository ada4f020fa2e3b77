rule unlearn:
    """Unlearning: train the subject with the method's objective."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("unlearn"),
        wanted=wanted_of,
        reference=reference_of,
        examples=examples_of,
        region=region_of,
        chosen=chosen_of,
    output:
        model=ensure("results/{model}/{method}/seed-{seed}/model/model.json", non_empty=True),
    log:
        log_of("unlearn"),
    benchmark:
        cost_of("unlearn")
    wildcard_constraints:
        method=one_of(results.methods_of(CFG, "unlearn")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=devices(pretrains=False),
        mem_mb=memory_on_devices(pretrains=False),
        runtime=runtime_of,
    params:
        config=config_of("unlearn"),
        untracked=untracked("unlearn"),
        tokens=tokens_folder,
        wanted=wanted_folder,
        reference=reference_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" unlearn \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --wanted "{params.wanted}" \
            --reference "{params.reference}" \
            --examples "{input.examples}" \
            --region "{input.region}" \
            --out {output.model:q} \
            --label "unlearn {wildcards.model}/{wildcards.method} seed {wildcards.seed}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
