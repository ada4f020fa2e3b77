rule examples:
    """Rows with random labels, or a mixture of two sets; needs no model."""
    input:
        base=base_manifest,
        tokens=tokens_for("examples"),
    output:
        manifest=ensure(
            "results/{model}/{method}/seed-{seed}/examples/manifest.json", non_empty=True
        ),
    log:
        "logs/examples/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/examples/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_with_examples(adversarial=False)),
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=30,
    params:
        config=stage("examples"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/examples.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "examples {wildcards.model}/{wildcards.method}" \
            2>&1 | tee -i {log:q}
        """


rule adversarial_labels:
    """Rows labelled with the subject's best wrong guesses."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("examples"),
    output:
        manifest=ensure(
            "results/{model}/{method}/seed-{seed}/examples/manifest.json", non_empty=True
        ),
    log:
        "logs/adversarial_labels/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/adversarial_labels/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_with_examples(adversarial=True)),
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("examples"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/examples.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "adversarial labels {wildcards.model}/{wildcards.method}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """
