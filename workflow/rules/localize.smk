rule localize:
    """Knowledge localization: gradients on perturbed answers, per tensor of the subject."""
    input:
        base=base_manifest,
        subject="results/{model}/subject/manifest.json",
        tokens=tokens_for("localize"),
    output:
        manifest=ensure("results/{model}/localization/manifest.json", non_empty=True),
    log:
        "logs/localize/{model}.log",
    benchmark:
        "benchmarks/localize/{model}.jsonl"
    conda:
        "../../envs/palimpsest.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=memory_of,
        runtime=runtime_of,
    params:
        config=stage("localize"),
        tokens=tokens_folder,
    shell:
        """
        python workflow/scripts/localize.py \
            --config {params.config:q} \
            --base {input.base:q} \
            --subject {input.subject:q} \
            --tokens {params.tokens:q} \
            --out {output.manifest:q} \
            --label "localize {wildcards.model}" \
            --threads {threads} \
            --gpus {resources.gpu} \
            2>&1 | tee -i {log:q}
        """


rule region:
    """The tensors that a method trains, chosen from the table; editing limits costs no gradient."""
    input:
        localization="results/{model}/localization/manifest.json",
    output:
        names=ensure("results/{model}/{method}/seed-{seed}/region.json", non_empty=True),
        table=ensure("results/{model}/{method}/seed-{seed}/region.parquet", non_empty=True),
    log:
        "logs/region/{model}.{method}.seed-{seed}.log",
    benchmark:
        "benchmarks/region/{model}.{method}.seed-{seed}.jsonl"
    localrule: True
    conda:
        "../../envs/palimpsest.yaml"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=10,
    params:
        config=stage("region"),
    shell:
        """
        python workflow/scripts/select_region.py \
            --config {params.config:q} \
            --localization {input.localization:q} \
            --out {output.names:q} \
            2>&1 | tee -i {log:q}
        """
