rule pretrain:
    """Teach the subject its scenario's rows (LoRA); without pretraining the base is the subject."""
    input:
        base=base_manifest,
        before=before_of,
        tokens=tokens_for("pretrain"),
    output:
        manifest=ensure("results/{model}/subject/manifest.json", non_empty=True),
    log:
        log_of("pretrain"),
    benchmark:
        cost_of("pretrain")
    conda:
        "../../envs/palimpsest.yaml"
    threads: threads_of
    resources:
        gpu=devices(pretrains=True),
        mem_mb=memory_on_devices(pretrains=True),
        runtime=runtime_of,
    params:
        stage="pretrain",
        config=config_of("pretrain"),
        untracked=untracked("pretrain"),
        tokens=tokens_folder,
    shell:
        """
        python "$PALIMPSEST_HOME/workflow/scripts/stage.py" {params.stage} \
            --config {params.config:q} \
            --untracked {params.untracked:q} \
            --base {input.base:q} \
            --before "{input.before}" \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "{params.stage} {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


use rule pretrain as retrain with:
    input:
        base=base_manifest,
        before=[],
        tokens=tokens_for("retrain"),
    output:
        manifest=ensure("results/{model}/retained/manifest.json", non_empty=True),
    log:
        log_of("retrain"),
    benchmark:
        cost_of("retrain")
    resources:
        gpu=devices(pretrains=True),
        mem_mb=memory_on_devices(pretrains=True),
        runtime=runtime_of,
    params:
        stage="retrain",
        config=config_of("retrain"),
        untracked=untracked("retrain"),
        tokens=tokens_folder,
