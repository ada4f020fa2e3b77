rule negate:
    """Task-vector negation: the subject minus lambda times what was acquired."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        acquired="results/{model}/{method}/seed-{seed}/acquired/manifest.json",
    output:
        model=ensure("results/{model}/{method}/seed-{seed}/model/model.json", non_empty=True),
    log:
        "logs/negate/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/negate/{model}.{method}.seed-{seed}.jsonl"
    wildcard_constraints:
        method=one_of(methods_of("acquire")),
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("negate"),
    shell:
        """
        python workflow/scripts/negate.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --acquired {input.acquired:q} \
            --out {output.model:q} \
            2>&1 | tee -i {log:q}
        """


rule original:
    """The subject before unlearning, described like every other model."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
    output:
        model=ensure("results/{model}/original/seed-0/model/model.json", non_empty=True),
    log:
        "logs/original/{model}.log",
    benchmark:
        "benchmarks/original/{model}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("original"),
    shell:
        """
        python workflow/scripts/original.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --out {output.model:q} \
            2>&1 | tee -i {log:q}
        """


rule untaught:
    """The base model, described like every other model."""
    input:
        base=base_manifest,
    output:
        model=ensure("results/{model}/base/seed-0/model/model.json", non_empty=True),
    log:
        "logs/untaught/{model}.log",
    benchmark:
        "benchmarks/untaught/{model}.jsonl"
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=stage("untaught"),
    shell:
        """
        python workflow/scripts/untaught.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --out {output.model:q} \
            2>&1 | tee -i {log:q}
        """


rule merge:
    """A full Hugging Face folder of the unlearned model (on request)."""
    input:
        base=base_manifest,
        model="results/{model}/{subject_or_method}/seed-{seed}/model/model.json",
    output:
        manifest=ensure(
            "results/{model}/{subject_or_method}/seed-{seed}/merged/manifest.json", non_empty=True
        ),
    log:
        "logs/merge/{model}.{subject_or_method}.seed-{seed}.log",
    benchmark:
        "benchmarks/merge/{model}.{subject_or_method}.seed-{seed}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("merge"),
    shell:
        """
        python workflow/scripts/merge.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --model {input.model:q} \
            --out {output.manifest:q} \
            --label "merge {wildcards.model}/{wildcards.subject_or_method}" \
            2>&1 | tee -i {log:q}
        """
