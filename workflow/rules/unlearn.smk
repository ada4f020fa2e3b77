rule unlearn:
    """Unlearning: train the subject with the method's objective."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("unlearn"),
        reference=reference_of,
        examples=examples_of,
        region=region_of,
    output:
        model=ensure("results/{model}/{method}/seed-{seed}/model/model.json", non_empty=True),
    log:
        "logs/unlearn/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/unlearn/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_of("unlearn")),
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=devices("unlearn"),
        mem_mb=memory_on_devices("unlearn"),
        runtime=runtime_of,
    params:
        config=stage("unlearn"),
        free=free("unlearn"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/unlearn.py \
            --config {params.config:q} \
            --free {params.free:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --reference "{input.reference}" \
            --examples "{input.examples}" \
            --region "{input.region}" \
            --out {output.model:q} \
            --label "unlearn {wildcards.model}/{wildcards.method} seed {wildcards.seed}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
