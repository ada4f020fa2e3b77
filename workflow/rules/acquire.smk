rule acquire:
    """Harmful-knowledge acquisition: the adapter whose task vector is subtracted (hazardous)."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        wanted=wanted_of,
        reference=reference_of,
        tokens=tokens_for("acquire"),
        chosen=chosen_of,
    output:
        manifest=ensure(
            "results/{model}/{method}/seed-{seed}/acquired/manifest.json", non_empty=True
        ),
    log:
        log_of("acquire"),
    benchmark:
        cost_of("acquire")
    wildcard_constraints:
        method=one_of(results.methods_of(CFG, "acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=devices(pretrains=False),
        mem_mb=memory_on_devices(pretrains=False),
        runtime=runtime_of,
    params:
        config=config_of("acquire"),
        untracked=untracked("acquire"),
        tokens=tokens_folder,
        wanted=wanted_folder,
        reference=reference_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" acquire \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --wanted "{params.wanted}" \
            --reference "{params.reference}" \
            --out {output.manifest:q} \
            --label "acquire {wildcards.model}/{wildcards.method} seed {wildcards.seed}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
