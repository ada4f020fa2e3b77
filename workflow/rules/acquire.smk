rule acquire:
    """Harmful-knowledge acquisition: the adapter whose task vector is subtracted (hazardous)."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        reference=reference_of,
        tokens=tokens_for("acquire"),
    output:
        manifest=ensure(
            "results/{model}/{method}/seed-{seed}/acquired/manifest.json", non_empty=True
        ),
    log:
        "logs/acquire/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/acquire/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_of("acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=devices("acquire"),
        mem_mb=memory_on_devices("acquire"),
        runtime=runtime_of,
    params:
        config=stage("acquire"),
        free=free("acquire"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/acquire.py \
            --config {params.config:q} \
            --free {params.free:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --reference "{input.reference}" \
            --out {output.manifest:q} \
            --label "acquire {wildcards.model}/{wildcards.method} seed {wildcards.seed}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
