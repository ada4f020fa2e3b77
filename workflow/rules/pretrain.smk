rule pretrain:
    """Teach the subject its scenario's rows (LoRA); without pretraining the base is the subject."""
    input:
        base=base_manifest,
        tokens=tokens_for("pretrain"),
    output:
        manifest=ensure("results/{model}/subject/manifest.json", non_empty=True),
    log:
        "logs/pretrain/{model}.log",
    benchmark:
        "benchmarks/pretrain/{model}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=devices("pretrain"),
        mem_mb=memory_on_devices("pretrain"),
        runtime=runtime_of,
    params:
        config=stage("pretrain"),
        free=free("pretrain"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/pretrain.py \
            --config {params.config:q} \
            --free {params.free:q} \
            --base {input.base:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "pretrain {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule retrain:
    """The gold standard: the base, pretrained on what is to be kept alone."""
    input:
        base=base_manifest,
        tokens=tokens_for("retrain"),
    output:
        model=ensure("results/{model}/retrained/seed-0/model/model.json", non_empty=True),
    log:
        "logs/retrain/{model}.log",
    benchmark:
        "benchmarks/retrain/{model}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=devices("retrain"),
        mem_mb=memory_on_devices("retrain"),
        runtime=runtime_of,
    params:
        config=stage("retrain"),
        free=free("retrain"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/retrain.py \
            --config {params.config:q} \
            --free {params.free:q} \
            --base {input.base:q} \
            --tokens {params.tokens:q} \
            --out {output.model:q} \
            --label "retrain {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
